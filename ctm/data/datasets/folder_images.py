"""Images and masks of the folder layout: photographs of 8 bits, GeoTIFFs, NumPy arrays."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctm.data.classes import IGNORE
from ctm.data.config import DatasetConfig
from ctm.data.datasets.photographs import check_size, check_values, read_mask, read_photograph
from ctm.data.datasets.rasters import Raster, check_same_grid, read_array, read_raster
from ctm.data.datasets.reader import PHOTOGRAPH_CHANNELS, Entry, RawFile
from ctm.data.libraries import load_rasterio
from ctm.data.sample import Sample, StoredImage, encode_array
from ctm.errors import DataError, ParamsError
from ctm.runtime.storage import Tree

__all__ = [
    "ARRAY",
    "GEOTIFF",
    "PHOTOGRAPH_BANDS",
    "STORED_TYPES",
    "SUFFIXES",
    "FolderDecode",
    "find_kind",
    "stored_values",
]

GEOTIFF = (".tif", ".tiff")
ARRAY = ".npy"
SUFFIXES = (".bmp", ".jpeg", ".jpg", ARRAY, ".png", *GEOTIFF, ".webp")
PHOTOGRAPH_BANDS = (1, 3, 4)
"""Bands of an 8-bit GeoTIFF that can be a photograph: grey, colours, colours and transparency."""
STORED_TYPES = {
    "uint8": np.uint8,
    "uint16": np.uint16,
    "int16": np.int16,
    "int32": np.float32,
    "float32": np.float32,
    "float64": np.float32,
}
MANY_CHANNELS = 32
"""A last axis this short, behind two longer ones, holds the channels."""
FIRST_IMAGES = 20
"""How many images are tried for the first that can be read."""


@dataclass(frozen=True)
class ImageKind:
    """What all images of a data set have in common.

    Attributes:
        channels: number of their channels.
        eight_bit: whether their values are bytes.
    """

    channels: int
    eight_bit: bool


def find_kind(config: DatasetConfig, tree: Tree, paths: Sequence[str]) -> ImageKind:
    """What the configuration and the first image that can be read say; ``FolderDecode`` holds the others to it.

    Args:
        config: may give the number of channels.
        tree: where the images lie.
        paths: the images.

    Raises:
        DataError: none of the first images can be read, or rasterio is missing and needed.
        ParamsError: the configuration gives other channels than photographs have.
    """
    if any(path.lower().endswith(GEOTIFF) for path in paths):
        load_rasterio()
    failures: list[DataError] = []
    for path in sorted(paths)[:FIRST_IMAGES]:
        try:
            return _kind_of(config, tree, path)
        except DataError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return ImageKind(config.channels or PHOTOGRAPH_CHANNELS, eight_bit=True)


def _kind_of(config: DatasetConfig, tree: Tree, path: str) -> ImageKind:
    place = tree.place(path)
    if not path.lower().endswith((ARRAY, *GEOTIFF)):
        if config.channels not in {None, PHOTOGRAPH_CHANNELS}:
            raise ParamsError(
                f"dataset.channels is {config.channels}, but {place} is a photograph, which has {PHOTOGRAPH_CHANNELS}; "
                "set it to null or to that number"
            )
        return ImageKind(PHOTOGRAPH_CHANNELS, eight_bit=True)
    raster = _read(RawFile(place, tree.read(path)), config.channels)
    photograph = _may_be_photograph(raster) and config.channels is None
    channels = PHOTOGRAPH_CHANNELS if photograph else config.channels or len(raster.array)
    return ImageKind(channels, eight_bit=raster.array.dtype == np.uint8)


@dataclass(frozen=True)
class FolderDecode:
    """Reads one image and its mask.

    Attributes:
        names: the classes, in the order of the mask values.
        kind: what the image must be.
    """

    names: tuple[str, ...]
    kind: ImageKind

    def __call__(self, entry: Entry, files: Mapping[str, RawFile]) -> Sample:
        """Decodes and checks both.

        Raises:
            DataError: one of them is damaged, is not of the kind, or contradicts the other.
        """
        image, raster = _image(files["image"], self.kind)
        mask = _mask(files["mask"], image.size, raster, self.names) if "mask" in files else None
        return image.sample(entry.key, labels=entry.labels or (), mask=mask)


def _image(file: RawFile, kind: ImageKind) -> tuple[StoredImage, Raster | None]:
    """An image, and the raster that it was made of; None for a photograph that is no GeoTIFF."""
    if not file.path.lower().endswith((ARRAY, *GEOTIFF)):
        _check_kind(file, kind, channels=PHOTOGRAPH_CHANNELS, eight_bit=True)
        return read_photograph(file), None
    raster = _read(file, kind.channels)
    photograph = _may_be_photograph(raster) and kind.channels == PHOTOGRAPH_CHANNELS
    channels = PHOTOGRAPH_CHANNELS if photograph else len(raster.array)
    _check_kind(file, kind, channels=channels, eight_bit=raster.array.dtype == np.uint8)
    if photograph:
        return _photograph(raster), raster
    values, notes = _values(raster)
    return StoredImage(encode_array(values), "npy", raster.size, notes, raster.georeference), raster


def _read(file: RawFile, channels: int | None) -> Raster:
    if not file.path.lower().endswith(ARRAY):
        return read_raster(file)
    raster = read_array(file)
    bands, height, width = raster.array.shape
    if channels is None:
        last_is_channels = width <= MANY_CHANNELS and 2 * width < min(bands, height)
    else:
        last_is_channels = width == channels != bands
    if last_is_channels:
        raise DataError(
            f"{file.path} has shape {raster.array.shape}, which looks like (height, width, channels); save it as "
            "(channels, height, width), np.moveaxis(array, -1, 0), or set dataset.channels if it is that already"
        )
    return raster


def _may_be_photograph(raster: Raster) -> bool:
    eight_bit_tiff = raster.array.dtype == np.uint8 and not raster.file.path.lower().endswith(ARRAY)
    return eight_bit_tiff and len(raster.array) in PHOTOGRAPH_BANDS


def _check_kind(file: RawFile, kind: ImageKind, *, channels: int, eight_bit: bool) -> None:
    if channels != kind.channels:
        raise DataError(
            f"{file.path}: {channels} bands, expected {kind.channels} (dataset.channels or, where that is null, what "
            "the first image has)"
        )
    if eight_bit != kind.eight_bit:
        found, wanted = ("8", "more than 8") if eight_bit else ("more than 8", "8")
        raise DataError(
            f"{file.path} has {found} bits, the first image has {wanted}; one scale suits all images only if they are "
            "of one kind"
        )


def _photograph(raster: Raster) -> StoredImage:
    """A GeoTIFF of 8 bits as colours; its transparency is dropped."""
    notes = ("a fourth band, taken for transparency and dropped",) if len(raster.array) > PHOTOGRAPH_CHANNELS else ()
    try:
        # Pillow knows palettes, CMYK and inverted greys.
        photograph = read_photograph(raster.file)
    except DataError:
        # GDAL has read it: a layout of the bands in the file that Pillow does not know.
        bands = raster.array[:PHOTOGRAPH_CHANNELS]
        colours = np.broadcast_to(bands, (PHOTOGRAPH_CHANNELS, *raster.size)).transpose(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(colours)).save(buffer, format="PNG")
        return StoredImage(buffer.getvalue(), "png", raster.size, notes, raster.georeference)
    return photograph._replace(notes=photograph.notes + notes, georeference=raster.georeference)


def stored_values(raster: Raster) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values in a type that is stored, 0 where there is none, and where that is, both (bands, H, W).

    Raises:
        DataError: the values are of a type that is not stored.
    """
    stored = STORED_TYPES.get(raster.array.dtype.name)
    if stored is None:
        raise DataError(
            f"{raster.file.path} holds {raster.array.dtype} values; valid are {', '.join(STORED_TYPES)}: convert it"
        )
    with np.errstate(over="ignore"):
        values: NDArray[Any] = raster.array.astype(stored)
    missing = raster.missing | ~np.isfinite(values)
    values[missing] = 0
    return values, missing


def _values(raster: Raster) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Values in a type that is stored, pixels without value 0, and what was mended."""
    values, missing = stored_values(raster)
    empty = [str(band) for band, none in enumerate(missing, start=1) if none.all()]
    if empty:
        raise DataError(f"{raster.file.path}: band {', '.join(empty)} holds no value (all NaN, infinite or nodata)")
    return values, ("pixels without value (NaN, infinite or nodata), set to 0",) if missing.any() else ()


def _mask(file: RawFile, size: tuple[int, int], image: Raster | None, names: Sequence[str]) -> NDArray[np.uint8]:
    if not file.path.lower().endswith(GEOTIFF):
        return read_mask(file, size=size, names=names)
    raster = read_raster(file, bands=1)
    values = raster.array[0]
    if values.dtype.kind not in "iu":
        raise DataError(f"{file.path}: the mask holds {values.dtype} values; store class indices as integers")
    check_size(file, values.shape, size)
    if image is not None:
        check_same_grid({"image": image, "mask": raster})
    classes = range(len(names))
    if raster.nodata not in classes:  # one that is a class is a class: many programs write 0 without being asked
        values = np.where(raster.missing[0], IGNORE, values)
    check_values(file, values, classes, f"0 to {len(names) - 1} (the classes)")
    mask: NDArray[np.uint8] = values.astype(np.uint8)
    return mask
