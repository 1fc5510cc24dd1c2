"""Masks as files: palette PNGs that any viewer shows, and GeoTIFFs that any GIS puts in their place."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.libraries import load_rasterio
from ctm.errors import StorageError

__all__ = ["write_mask_geotiff", "write_mask_png"]

ROWS = 256
"""Of a file that is read again at once."""


def write_mask_png(path: Path, mask: NDArray[np.uint8], classes: ClassTable) -> None:
    """Writes a mask (H, W) as a PNG with the classes' palette, whatever the path's suffix."""
    image = Image.fromarray(mask)
    image.putpalette(classes.palette().tobytes())
    image.save(path, format="PNG")


def write_mask_geotiff(
    path: Path,
    bands: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    classes: ClassTable,
    *,
    shown: Path,
    **creation: Any,
) -> None:
    """Writes a GeoTIFF of one band: 8 bits, the classes' palette and names, 255 as nodata. Then reads it again.

    The names are tags of the band, ``CLASS_0=Forest``: the format has no place of its own for them. Of a full disk GDAL
    may say nothing, or only print it; so the file counts as written if what is read is what was given.

    Args:
        path: of the file.
        bands: the mask from top to bottom, by bands of rows (rows, W).
        size: height and width in pixels.
        classes: what the values mean.
        shown: the name under which an error speaks of the file.
        creation: what rasterio is told beside: crs, transform, compress.

    Raises:
        StorageError: the disk does not take the file.
    """
    rasterio = load_rasterio()
    from rasterio._err import CPLE_BaseError  # what closing a file raises, of no public class

    about = {"count": 1, "height": size[0], "width": size[1], "dtype": "uint8", "nodata": IGNORE}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # nor is the image, then
            file = rasterio.open(path, "w", driver="GTiff", **about, **creation)
        with file:
            file.write_colormap(1, {value: (*colour, 255) for value, colour in enumerate(classes.palette().tolist())})
            file.update_tags(1, **{f"CLASS_{value}": name for value, name in enumerate(classes.names)})
            written = _write_rows(file, bands)
        found = _checksum(path)
    except (rasterio.errors.RasterioError, CPLE_BaseError) as error:
        raise _not_taken(shown, str(error).replace(path.name, shown.name)) from error
    if found != written:
        raise _not_taken(shown, "it does not hold what was written")


def _write_rows(file: Any, bands: Iterable[NDArray[np.uint8]]) -> int:
    """Writes whole blocks, so that none is compressed twice; the checksum of all rows."""
    window = load_rasterio().windows.Window
    block = file.block_shapes[0][0]
    top, checksum = 0, 0
    waiting = np.empty((0, file.width), dtype=np.uint8)
    for band in bands:
        checksum = crc32(np.ascontiguousarray(band).data, checksum)
        waiting = np.concatenate([waiting, band])
        ready = len(waiting) if top + len(waiting) == file.height else len(waiting) // block * block
        if ready:
            file.write(waiting[:ready], 1, window=window(0, top, file.width, ready))
            top, waiting = top + ready, waiting[ready:]
    return checksum


def _checksum(path: Path) -> int:
    """The checksum of all rows of a file."""
    rasterio = load_rasterio()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        file = rasterio.open(path, driver="GTiff")
    with file:
        window, checksum = rasterio.windows.Window, 0
        for top in range(0, file.height, ROWS):
            rows = min(ROWS, file.height - top)
            checksum = crc32(file.read(1, window=window(0, top, file.width, rows)), checksum)
    return checksum


def _not_taken(path: Path, reason: str) -> StorageError:
    return StorageError(f"{path} cannot be written ({reason}): make room and run the command again.")
