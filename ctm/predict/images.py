"""The images that a model is to work on: found, and held against what it takes, before any work."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ctm.data.datasets.dfc2020 import BANDS
from ctm.data.datasets.folder_images import (
    ARRAY,
    GEOTIFF,
    PHOTOGRAPH_BANDS,
    PHOTOGRAPH_CHANNELS,
    STORED_TYPES,
    SUFFIXES,
)
from ctm.data.datasets.photographs import EIGHT_BIT_MODES
from ctm.data.datasets.rasters import load_rasterio, opened_raster
from ctm.data.inputs import InputSpec, PixelValues
from ctm.data.sample import UNREADABLE, check_pixels
from ctm.errors import ArtifactError, DataError

__all__ = ["ImageFile", "find_images", "pixel_values", "problems_message", "report_failures"]

Kind = Literal["photograph", "array", "raster"]

LISTED = 10
"""Problems that one message lists at most."""


@dataclass(frozen=True)
class ImageFile:
    """An image on disk.

    Attributes:
        path: where it lies.
        kind: a photograph, an array in a ``.npy`` file, or a raster in a GeoTIFF.
    """

    path: Path
    kind: Kind

    @property
    def name(self) -> str:
        """The file's name without suffix, after which its outputs are called."""
        return self.path.stem


def find_images(places: Sequence[Path], inputs: InputSpec) -> list[ImageFile]:
    """The images at some places, all of which a model can take as far as their headers say.

    Args:
        places: files, or folders of whose files those directly inside count that are images by their suffix.
        inputs: what the model takes.

    Raises:
        DataError: a place is missing or holds no image, two images have one name, or headers are unreadable or speak
            of other images than the model takes; all of these are named.
        ArtifactError: the model does not say what its pixel values were.
    """
    values = pixel_values(inputs)
    paths = {path.resolve(): path for place in places for path in _files(place)}
    images = [ImageFile(path, _kind(path)) for path in paths.values()]
    _check_names(images)
    if any(image.kind == "raster" for image in images):
        load_rasterio()
    problems = []
    for image in images:
        try:
            CHECKS[image.kind](image.path, inputs, values)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(problems_message(problems, f"of {len(images)} images cannot be used"))
    return images


def pixel_values(inputs: InputSpec) -> PixelValues:
    """What the model's pixel values are; 8 bits are recognised where a model of an older ctm does not say it.

    Raises:
        ArtifactError: it cannot be told.
    """
    if inputs.values is None and inputs.scale != 1 / 255:
        raise ArtifactError(
            "the model does not say what the pixel values of its training images were, as those of an older ctm: run "
            "preprocess and the training again"
        )
    return inputs.values or "bytes"


def problems_message(problems: Sequence[str], what: str) -> str:
    """One message for several problems, the first of which are listed; a single one stands for itself."""
    if len(problems) == 1:
        return problems[0]
    more = f"\n  … and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    return f"{len(problems)} {what}:" + "".join(f"\n  {problem}" for problem in problems[:LISTED]) + more


def report_failures(failures: Sequence[str], images: Sequence[ImageFile], folder: Path) -> None:
    """Ends the work on images of which some could not be read to their end.

    Raises:
        DataError: there are any; they are named.
    """
    if failures:
        message = problems_message(failures, f"of {len(images)} images cannot be used")
        raise DataError(f"{message}\nWhat was made of all others is in {folder}.")


def _files(place: Path) -> Iterator[Path]:
    if place.is_dir():
        found = sorted(path for path in place.iterdir() if _is_image(path))
        if not found:
            raise DataError(f"{place} holds no image (suffixes read: {', '.join(SUFFIXES)})")
        yield from found
    elif not place.exists():
        raise DataError(f"{place} does not exist; name image files, or folders of them")
    elif place.suffix.lower() not in SUFFIXES:
        raise DataError(f"{place} is no image by its suffix; suffixes read: {', '.join(SUFFIXES)}")
    else:
        yield place


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _kind(path: Path) -> Kind:
    suffix = path.suffix.lower()
    return "array" if suffix == ARRAY else "raster" if suffix in GEOTIFF else "photograph"


def _check_names(images: Iterable[ImageFile]) -> None:
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        by_name[image.name].append(str(image.path))
    problems = [f"{' and '.join(paths)} would get one name, {name}" for name, paths in by_name.items() if paths[1:]]
    if problems:
        raise DataError(problems_message(problems, "names are not unique") + "; rename one, or use two folders")


def _check_photograph(path: Path, inputs: InputSpec, values: PixelValues) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode, size = image.mode, image.size
    except UNREADABLE as error:
        raise DataError(f"{path} is no readable image ({error}); replace the file or leave it out") from error
    if mode not in EIGHT_BIT_MODES:
        raise DataError(f"{path}: colour mode {mode!r}, but photographs have 8 bits a channel")
    try:
        check_pixels(*size)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if (values, inputs.channels) != ("bytes", PHOTOGRAPH_CHANNELS):
        raise DataError(f"{path} is a photograph, but the model takes {_words(inputs, values)}")


def _check_array(path: Path, inputs: InputSpec, values: PixelValues) -> None:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        shape, dtype = array.shape, array.dtype.name
    except (*UNREADABLE, AttributeError) as error:  # a zip file of arrays has no shape
        raise DataError(f"{path} is no readable array ({error}); replace the file or leave it out") from error
    if len(shape) not in {2, 3}:
        raise DataError(f"{path}: the array has shape {shape}; expected (channels, height, width)")
    bands = shape[0] if len(shape) == 3 else 1
    if bands != inputs.channels == shape[-1]:
        raise DataError(
            f"{path} has shape {shape}, which looks like (height, width, channels); save it as (channels, height, "
            "width), np.moveaxis(array, -1, 0)"
        )
    _check_bands(path, bands, dtype, inputs, values)


def _check_raster(path: Path, inputs: InputSpec, values: PixelValues) -> None:
    with opened_raster(path) as raster:
        bands, types = raster.count, set(raster.dtypes)
        odd = raster.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES" or raster.colorinterp[0].name == "cyan"
    if len(types) > 1:
        raise DataError(f"{path}: its bands have several types ({', '.join(sorted(types))}); convert them to one")
    if values == "bytes" and inputs.channels == PHOTOGRAPH_CHANNELS and types == {"uint8"}:
        if odd:
            raise DataError(f"{path} holds inverted greys or printing colours (CMYK); convert it to RGB")
        bands = PHOTOGRAPH_CHANNELS if bands in PHOTOGRAPH_BANDS else bands
    _check_bands(path, bands, types.pop(), inputs, values)


def _check_bands(path: Path, bands: int, dtype: str, inputs: InputSpec, values: PixelValues) -> None:
    wanted = f"the model takes {_words(inputs, values)}"
    if bands != inputs.channels:
        raise DataError(f"{path} has {bands} {'band' if bands == 1 else 'bands'}, but {wanted}")
    if dtype not in STORED_TYPES:
        raise DataError(f"{path} holds {dtype} values; valid are {', '.join(STORED_TYPES)}: convert it")
    if values in ("bytes", "numbers"):
        if (dtype == "uint8") != (values == "bytes"):
            raise DataError(f"{path} holds {dtype} values, but {wanted}: one scale suits only images of one kind")
    elif dtype.startswith("uint"):
        raise DataError(f"{path} holds {dtype} values, which cannot be decibels, but {wanted}; store it as float32")


def _words(inputs: InputSpec, values: PixelValues) -> str:
    """What a model takes."""
    if values in ("bytes", "numbers"):
        bits = "8" if values == "bytes" else "more than 8"
        return f"{inputs.channels} {'channel' if inputs.channels == 1 else 'channels'} of {bits} bits"
    return (
        f"{inputs.channels} bands as DFC2020 has them: {BANDS['s2']} of Sentinel-2, reflectance times 10000, then VV "
        "and VH of Sentinel-1, decibels"
    )


CHECKS: dict[Kind, Callable[[Path, InputSpec, PixelValues], None]] = {
    "photograph": _check_photograph,
    "array": _check_array,
    "raster": _check_raster,
}
