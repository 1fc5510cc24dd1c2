"""Rasters of any number of bands, as GeoTIFF and NumPy files hold them."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctm.data.datasets.reader import RawFile
from ctm.data.libraries import load_rasterio
from ctm.data.sample import MAX_PIXELS, UNREADABLE, Georeference, check_pixels
from ctm.errors import DataError

__all__ = [
    "Raster",
    "check_array_head",
    "check_same_grid",
    "check_shape",
    "opened_raster",
    "read_array",
    "read_raster",
]

CACHE_MB = 64
"""Most megabytes that GDAL keeps of files read by windows; its own choice is a share of the machine's memory."""
MAX_VALUES = 3 * MAX_PIXELS
"""Most values that are decoded: those of the largest photograph."""


class Raster(NamedTuple):
    """A raster that has been read."""

    file: RawFile
    """Where it comes from."""
    array: NDArray[Any]
    """Its bands, (bands, H, W)."""
    georeference: Georeference | None = None
    """Where it lies; None if the file does not say."""
    nodata: float | None = None
    """The value of pixels without value, besides NaN; None if the file names none."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.array.shape[1], self.array.shape[2]

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Which values are none, (bands, H, W): NaN or the file's nodata value."""
        floats = self.array.dtype.kind == "f"
        missing: NDArray[np.bool_] = np.isnan(self.array) if floats else np.zeros(self.array.shape, dtype=bool)
        if self.nodata is not None:
            missing |= self.array == self.nodata
        return missing


def read_raster(file: RawFile, *, bands: int | None = None) -> Raster:
    """All bands of a GeoTIFF.

    Args:
        file: a GeoTIFF, and nothing else: other formats of GDAL's may name further files to be read.
        bands: how many there must be; None for any number.

    Raises:
        DataError: the file is damaged or too large, has other bands than expected, or a band of it holds no value.
    """
    rasterio = load_rasterio()
    try:
        if not file.data:
            raise DataError("the file is empty")  # to MemoryFile, one that is to be written
        with warnings.catch_warnings():
            # A copy that lost its georeference is as good for all but its place.
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.MemoryFile(file.data) as memory, memory.open(driver="GTiff") as raster:
                check_shape(raster.count, raster.height, raster.width)
                if bands is not None and raster.count != bands:
                    raise DataError(f"{raster.count} bands, expected {bands}")
                result = Raster(file, raster.read(), _georeference(raster), raster.nodata)
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from error
    except (rasterio.errors.RasterioError, ValueError) as error:
        reason = re.sub(r"/vsimem/[^\s']+", "file", str(error))  # GDAL's name of the bytes in memory
        raise DataError(f"{file.path} is no readable raster ({reason}); replace the file or remove it") from error
    _check_bands(result)
    return result


@contextmanager
def opened_raster(path: Path) -> Iterator[Any]:
    """Opens a GeoTIFF on disk for reading by windows; other formats of GDAL's are not read, see ``read_raster``.

    Raises:
        DataError: the file is no readable GeoTIFF.
    """
    rasterio = load_rasterio()
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                raster = rasterio.open(path, driver="GTiff")
        except rasterio.errors.RasterioError as error:
            raise DataError(f"{path} is no readable raster ({error}); replace the file or leave it out") from error
        with raster:
            yield raster


def read_array(file: RawFile) -> Raster:
    """The bands in a ``.npy`` file of shape (bands, H, W), or (H, W) for one band; never unpickled.

    Raises:
        DataError: the file is damaged or too large, has another shape, holds no numbers, or a band of it holds no
            value.
    """
    try:
        check_array_head(io.BytesIO(file.data), len(file.data))
        array: NDArray[Any] = np.load(io.BytesIO(file.data), allow_pickle=False)
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from error
    except UNREADABLE as error:
        raise DataError(f"{file.path} is no readable array ({error}); replace the file or remove it") from error
    result = Raster(file, array[None] if array.ndim == 2 else array)
    _check_bands(result)
    return result


def check_array_head(file: BinaryIO, size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that the head of a ``.npy`` file claims, checked before anything of that size is allocated.

    Args:
        file: at its beginning.
        size: of the file in bytes.

    Raises:
        DataError: no image has that shape or type, or the file has another size than such an array.
        ValueError: the bytes are no such head.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise DataError("the array holds Python objects, which are not read; save numbers")
    if len(shape) not in {2, 3}:
        raise DataError(f"the array has shape {shape}; expected (channels, height, width), or (height, width)")
    check_shape(*(1, *shape)[-3:])
    claimed, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != found:
        raise DataError(f"the array's head claims {claimed:,} bytes, {found:,} follow; the file is damaged")
    return shape, dtype


def check_shape(bands: int, height: int, width: int) -> None:
    """Refuses an image without pixels, or with more values than are decoded.

    Raises:
        DataError: it is one.
    """
    if min(bands, height, width) < 1:
        raise DataError(f"the image has no pixels: {bands} bands of {width}x{height}")
    check_pixels(width, height)
    if bands * height * width > MAX_VALUES:
        raise DataError(
            f"the image claims {bands} bands of {width}x{height} pixels, more than the {MAX_VALUES:,} values that are "
            "decoded; cut it into tiles if it really is that large"
        )


def check_same_grid(rasters: Mapping[str, Raster]) -> None:
    """Checks that the rasters of one sample cover the same ground: one size, and one place where they say it.

    Raises:
        DataError: two of them differ.
    """
    (first, raster), *others = rasters.items()
    for name, other in others:
        if other.array.shape[1:] != raster.array.shape[1:]:
            raise DataError(
                f"{raster.file.path} and its partner {name} differ in size (height, width): "
                f"{raster.array.shape[1:]} ({first}) and {other.array.shape[1:]} ({name})"
            )
    (first, raster), *others = [item for item in rasters.items() if item[1].georeference] or [(first, raster)]
    for name, other in others:
        if raster.georeference and other.georeference and not _same_place(raster.georeference, other.georeference):
            raise DataError(
                f"{raster.file.path} and its partner {name} lie on different grids: {_words(raster.georeference)} "
                f"({first}) and {_words(other.georeference)} ({name}); warp one to the other"
            )


def _check_bands(raster: Raster) -> None:
    empty = [
        str(band)
        for band, values in enumerate(raster.array, start=1)
        if values.dtype.kind == "f" and not np.isfinite(values).any()
    ]
    if empty:
        raise DataError(f"{raster.file.path}: band {', '.join(empty)} holds no value (all NaN)")


def _georeference(raster: Any) -> Georeference | None:
    if raster.crs is None or raster.transform.is_identity:
        return None
    return Georeference(crs=raster.crs.to_string(), transform=tuple(raster.transform)[:6])


def _same_place(one: Georeference, other: Georeference) -> bool:
    """Equal but for rounding: a hundredth of a pixel."""
    step = max(abs(one.transform[0]), abs(one.transform[1]))
    near = np.allclose(one.transform, other.transform, rtol=0, atol=step / 100)
    if one.crs == other.crs or not near:
        return near
    from_string = load_rasterio().crs.CRS.from_string  # one system has many spellings
    return bool(from_string(one.crs) == from_string(other.crs))


def _words(georeference: Georeference) -> str:
    return f"{georeference.crs} from ({georeference.transform[2]:g}, {georeference.transform[5]:g})"
