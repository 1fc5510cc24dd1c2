"""The images that a model is to work on: found, and held against what it takes, before any work."""

from __future__ import annotations

import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from ctm.data.datasets.dfc2020 import BANDS
from ctm.data.datasets.folder_images import (
    ARRAY,
    GEOTIFF,
    PHOTOGRAPH_BANDS,
    STORED_TYPES,
    SUFFIXES,
)
from ctm.data.datasets.photographs import EIGHT_BIT_MODES, is_turned
from ctm.data.datasets.rasters import check_array_head, check_shape, opened_raster
from ctm.data.datasets.reader import PHOTOGRAPH_CHANNELS
from ctm.data.findings import shortened
from ctm.data.inputs import InputSpec, PixelValues
from ctm.data.libraries import load_rasterio
from ctm.data.sample import UNREADABLE, check_pixels
from ctm.errors import ArtifactError, DataError

__all__ = ["ImageFile", "find_images", "pixel_values", "problems_message", "report_failures"]

Kind = Literal["photograph", "array", "raster"]

LISTED = 10
"""Problems that one message lists at most."""
TURNED = "photographs with an EXIF orientation, which is not applied, nor was it in training"
UNPLACED = "GeoTIFFs placed only by ground control points or RPCs, which masks do not get (warp them first)"

logger = logging.getLogger(__name__)


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

    @property
    def mask_name(self) -> str:
        """The name of its mask's file."""
        return f"{self.name}.tif" if self.kind == "raster" else f"{self.name}.png"


def find_images(places: Sequence[Path], inputs: InputSpec, *, explained: bool = False) -> list[ImageFile]:
    """The images at some places, all of which a model can take as far as their headers say.

    What the images have that will not be heeded is one warning each in the log.

    Args:
        places: files, or folders of whose files those directly inside count that are images by their suffix.
        inputs: what the model takes.
        explained: they get explanations instead of masks, for which GeoTIFFs are read whole.

    Raises:
        DataError: a place is missing or holds no image, two images would have one output, or headers are unreadable or
            speak of other images than the model takes; all of these are named.
        ArtifactError: the model does not say what its pixel values were.
    """
    wanted = _Wanted(inputs.channels, pixel_values(inputs), whole=explained)
    paths = {path.absolute(): path for place in places for path in _files(place)}
    images = [ImageFile(path, _kind(path)) for path in paths.values()]
    _check_names({image: image.name if explained else image.mask_name for image in images})
    if any(image.kind == "raster" for image in images):
        load_rasterio()
    problems: list[DataError] = []
    notes: Counter[str] = Counter()
    for image in images:
        try:
            notes.update(CHECKS[image.kind](image.path, wanted))
        except DataError as error:
            problems.append(error)
    if problems:
        raise DataError(_refusal(problems, len(images), wanted))
    for note, count in notes.items():
        logger.warning("%s: %d of %d images", note, count, len(images))
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
    return "\n  ".join([f"{len(problems)} {what}:", *shortened(problems, LISTED)])


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


def _check_names(outputs: Mapping[ImageFile, str]) -> None:
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for image, name in outputs.items():
        by_name[name].append(str(image.path))
    problems = [f"{' and '.join(paths)} would get one name, {name}" for name, paths in by_name.items() if paths[1:]]
    if problems:
        message = problems_message(problems, "names are not unique")
        raise DataError(f"{message}; rename one, or run them with another --out")


@dataclass(frozen=True)
class _Wanted:
    """What the images must be.

    Attributes:
        channels: of the model.
        values: what its pixel values are.
        whole: GeoTIFFs are read whole.
    """

    channels: int
    values: PixelValues
    whole: bool

    @property
    def photographs(self) -> bool:
        """Whether the model takes photographs."""
        return self.values == "bytes" and self.channels == PHOTOGRAPH_CHANNELS

    def words(self) -> str:
        """What the model takes."""
        if self.values in ("bytes", "numbers"):
            bits = "8" if self.values == "bytes" else "more than 8"
            return f"{self.channels} {'channel' if self.channels == 1 else 'channels'} of {bits} bits"
        return (
            f"{self.channels} bands as DFC2020 has them: {BANDS['s2']} of Sentinel-2, reflectance times 10000, then VV "
            "and VH of Sentinel-1, decibels, in a signed type such as float32"
        )


class _OtherKindError(DataError):
    """An image of another kind than the model takes; what that is, is not in the message."""


def _refusal(problems: Sequence[DataError], count: int, wanted: _Wanted) -> str:
    """All problems in one message, which says once what the model takes."""
    texts = [str(problem) for problem in problems]
    if not any(isinstance(problem, _OtherKindError) for problem in problems):
        return problems_message(texts, f"of {count} images cannot be used")
    if len(problems) == 1:
        return f"{texts[0]}, but the model takes {wanted.words()}"
    return problems_message(texts, f"of {count} images cannot be used; the model takes {wanted.words()}")


def _check_photograph(path: Path, wanted: _Wanted) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode, size = image.mode, image.size
                # No PNG is decoded in search of it.
                turned = (image.format != "PNG" or "exif" in image.info) and is_turned(image)
    except UNREADABLE as error:
        raise DataError(f"{path} is no readable image ({error}); replace the file or leave it out") from error
    if mode not in EIGHT_BIT_MODES:
        raise DataError(f"{path}: colour mode {mode!r}, but photographs have 8 bits a channel")
    with _named(path):
        check_pixels(*size)
    if not wanted.photographs:
        raise _OtherKindError(f"{path} is a photograph")
    if turned:
        yield TURNED


def _check_array(path: Path, wanted: _Wanted) -> Iterator[str]:
    try:
        with path.open("rb") as file, _named(path):
            shape, dtype = check_array_head(file, path.stat().st_size)
    except UNREADABLE as error:
        raise DataError(f"{path} is no readable array ({error}); replace the file or leave it out") from error
    bands = shape[0] if len(shape) == 3 else 1
    if bands != wanted.channels == shape[-1]:
        raise DataError(
            f"{path} has shape {shape}, which looks like (height, width, channels); save it as (channels, height, "
            "width), np.moveaxis(array, -1, 0)"
        )
    _check_bands(path, bands, dtype.name, wanted)
    yield from ()


def _check_raster(path: Path, wanted: _Wanted) -> Iterator[str]:
    with opened_raster(path) as raster:
        bands, types = raster.count, set(raster.dtypes)
        colour = raster.colorinterp[0].name
        odd = raster.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES" or colour == "cyan"
        bits = int(raster.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
        unplaced = raster.transform.is_identity and (raster.gcps[0] or raster.rpcs)
        if wanted.whole:
            with _named(path):
                check_shape(bands, raster.height, raster.width)
    if len(types) > 1:
        raise DataError(f"{path}: its bands have several types ({', '.join(sorted(types))}); convert them to one")
    if wanted.photographs and types == {"uint8"}:
        if odd:
            raise DataError(f"{path} holds inverted greys or printing colours (CMYK); convert it to RGB")
        if bands == 1 and bits < 8 and colour != "palette":
            raise DataError(
                f"{path} holds greys of {bits} {'bit' if bits == 1 else 'bits'}; spread them over 8, such as with "
                f"gdal_translate -co NBITS=8 -scale 0 {2**bits - 1} 0 255"
            )
        bands = PHOTOGRAPH_CHANNELS if bands in PHOTOGRAPH_BANDS else bands
    _check_bands(path, bands, types.pop(), wanted)
    if unplaced and not wanted.whole:
        yield UNPLACED


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Puts the file's name before an error."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _check_bands(path: Path, bands: int, dtype: str, wanted: _Wanted) -> None:
    if bands != wanted.channels:
        raise _OtherKindError(f"{path} has {bands} {'band' if bands == 1 else 'bands'}")
    if dtype not in STORED_TYPES:
        raise DataError(f"{path} holds {dtype} values; valid are {', '.join(STORED_TYPES)}: convert it")
    if wanted.values in ("bytes", "numbers"):
        if (dtype == "uint8") != (wanted.values == "bytes"):
            raise _OtherKindError(f"{path} holds {dtype} values")
    elif dtype.startswith("uint"):
        raise _OtherKindError(f"{path} holds {dtype} values, which cannot be decibels")


CHECKS: dict[Kind, Callable[[Path, _Wanted], Iterator[str]]] = {
    "photograph": _check_photograph,
    "array": _check_array,
    "raster": _check_raster,
}
"""What holds the header of an image of each kind against the model, and gives what of it will not be heeded."""
