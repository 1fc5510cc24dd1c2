"""From a segmenter's logits to a mask of the image's own size, however large that is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["native_mask"]

MOST_VALUES = 2**25
"""Resized logits that are held at once, 134 MB of float32. Larger images are decided by bands of rows.

Measured for 2, 8 and 21 classes and up to 25 million pixels: 160 MB at most, two copies of the mask among them.
"""
PIECE = 64
"""Rows whose largest logits are looked for at once."""


def native_mask(logits: Tensor, size: tuple[int, int], *, most_values: int = MOST_VALUES) -> NDArray[np.uint8]:
    """Resizes logits (bilinear) to the image's size and takes the largest of each pixel.

    Args:
        logits: (K, h, w) of one image, at the model's size.
        size: height and width of the image in pixels.
        most_values: resized logits that may be held at once, K * H * W or those of a band of rows.

    Returns:
        (H, W) mask values.
    """
    height, width = size
    if len(logits) * height * width <= most_values:
        native = interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
        return _largest(native)
    rows = max(1, most_values // (2 * len(logits) * width))  # of what lies above and below each row
    bands = [_rows(logits, start, min(start + rows, height), size) for start in range(0, height, rows)]
    return np.concatenate(bands)


def _rows(logits: Tensor, start: int, stop: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask's rows from ``start`` to before ``stop``."""
    last = logits.shape[1] - 1
    centres = torch.arange(start, stop, device=logits.device) + 0.5
    place = (centres * (logits.shape[1] / size[0]) - 0.5).clamp(0, last)
    above = place.long()
    below = (above + 1).clamp(max=last)
    first = int(above[0])
    near = logits[None, :, first : int(below[-1]) + 1]
    wide = interpolate(near, size=(near.shape[2], size[1]), mode="bilinear", align_corners=False)[0]
    return _largest(wide[:, above - first].lerp_(wide[:, below - first], (place - above)[:, None]))


def _largest(logits: Tensor) -> NDArray[np.uint8]:
    """Some rows at a time: of each value torch makes an index of 8 bytes first."""
    bands = (logits[:, top : top + PIECE] for top in range(0, logits.shape[1], PIECE))
    pieces = [piece.argmax(dim=0).to(torch.uint8) for piece in bands]
    mask: NDArray[np.uint8] = torch.cat(pieces).cpu().numpy()
    return mask
