"""Pictures for the eye from images of any number of bands."""

from __future__ import annotations

from functools import cache
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont

__all__ = ["SHADES", "display_rgb", "font"]

SENTINEL2_CHANNELS = 13
SENTINEL2_RGB = (3, 2, 1)
"""Positions of bands 4, 3 and 2: red, green, blue."""

SHADES = [min((value + 2) // 4 * 4, 255) for value in range(256)]
"""For each value of a channel one of 64: a picture of these looks the same, and its PNG is smaller by a third."""


def display_rgb(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Makes a picture for the eye from an image of any number of bands.

    One band is shown grey, three as they are, 13 or more as Sentinel-2's bands 4, 3 and 2, others by their first
    three (two: the first alone). Photographs of 8 bits keep their values; everything else is stretched between its
    2nd and 98th percentile, all channels together so that colours stay true.

    Args:
        image: (Ch, H, W), any number type.

    Returns:
        (H, W, 3) uint8.
    """
    channels = image.shape[0]
    if channels >= SENTINEL2_CHANNELS:
        bands = image[list(SENTINEL2_RGB)]
    else:
        bands = image[:3] if channels >= 3 else np.repeat(image[:1], 3, axis=0)
    if image.dtype != np.uint8 or channels not in (1, 3):
        bands = _stretch(bands)
    return np.ascontiguousarray(bands.transpose(1, 2, 0), dtype=np.uint8)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, laid out by Pillow itself: a library that only some machines have spaces letters otherwise."""
    found = cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
    return found.font_variant(layout_engine=ImageFont.Layout.BASIC)


def _stretch(bands: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Values between the 2nd and 98th percentile spread over 0..255; what is not finite is left out and black."""
    values = bands.astype(np.float32)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (2, 98)) if finite.size else (0.0, 1.0)
    scaled = (values - low) / max(float(high - low), np.finfo(np.float32).tiny) * 255
    return np.asarray(np.nan_to_num(scaled, nan=0.0).clip(0, 255).round(), dtype=np.uint8)
