"""Masks as files: palette PNGs that any viewer shows, and GeoTIFFs that any GIS puts in their place."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.datasets.rasters import load_rasterio

__all__ = ["mask_geotiff", "write_mask_png"]


def write_mask_png(path: Path, mask: NDArray[np.uint8], classes: ClassTable) -> None:
    """Writes a mask (H, W) as a PNG with the classes' palette, whatever the path's suffix."""
    image = Image.fromarray(mask)
    image.putpalette(classes.palette().tobytes())
    image.save(path, format="PNG")


@contextmanager
def mask_geotiff(path: Path, size: tuple[int, int], classes: ClassTable, **creation: Any) -> Iterator[Any]:
    """Opens a GeoTIFF of one band for writing: 8 bits, the classes' palette and names, 255 as nodata.

    The names are tags of the band, ``CLASS_0=Forest``: the format has no place of its own for them.

    Args:
        path: of the file.
        size: height and width in pixels.
        classes: what the values mean.
        creation: what rasterio is told beside: crs, transform, compress.

    Yields:
        The dataset of rasterio.
    """
    rasterio = load_rasterio()
    shape = {"count": 1, "height": size[0], "width": size[1], "dtype": "uint8", "nodata": IGNORE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # nor is the image, then
        file = rasterio.open(path, "w", driver="GTiff", **shape, **creation)
    with file:
        file.write_colormap(1, {value: (*colour, 255) for value, colour in enumerate(classes.palette().tolist())})
        file.update_tags(1, **{f"CLASS_{value}": name for value, name in enumerate(classes.names)})
        yield file
