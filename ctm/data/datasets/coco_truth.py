"""The truth of an image of COCO, painted from its annotated objects as the field does it (coco2voc).

Objects are painted in ascending area, and a pixel keeps the first, smallest object; crowds count as objects, and there
is no void border.
"""

from __future__ import annotations

import json
import re
import warnings
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctm.data.datasets.coco_classes import MASK_VALUES
from ctm.data.datasets.photographs import read_photograph
from ctm.data.datasets.reader import Entry, RawFile
from ctm.data.libraries import load_library
from ctm.data.sample import Sample
from ctm.errors import DataError

__all__ = ["AnnotatedImage", "decode_annotated", "load_pycocotools"]

COMPRESSED_RUNS = re.compile(r"[0-o]*[0-O]")
"""COCO's text for run lengths: six bits a character, of which the highest, from ``P`` on, says that more follow."""


class AnnotatedImage(NamedTuple):
    """What the instances JSON says of an image."""

    number: int
    """COCO's id of it."""
    stem: str
    """Its file name without suffix."""
    height: int
    width: int
    labels: tuple[int, ...]
    """Mask values of its objects, ascending; empty if it has none."""
    packed: bytes
    """Its annotations as compressed JSON, see ``annotations``."""

    def annotations(self) -> list[dict[str, Any]]:
        """Its annotations in the order of the file.

        Raises:
            DataError: one of them is valid JSON that Python does not take, such as a number of 5,000 digits.
        """
        try:
            found: list[dict[str, Any]] = json.loads(zlib.decompress(self.packed).decode(errors="replace"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"its annotations cannot be read ({error})") from error
        return found


def decode_annotated(entry: Entry, files: Mapping[str, RawFile]) -> Sample:
    """Makes a sample of a photograph and its annotations, an ``AnnotatedImage``, in the entry's details.

    Raises:
        DataError: the photograph is damaged or of another size than the JSON says, or an annotation is malformed.
    """
    file, annotated = files["image"], entry.details
    photograph = read_photograph(file)
    height, width = photograph.size
    if (height, width) != (annotated.height, annotated.width):
        raise DataError(
            f"{file.path}: the image is {width}x{height} pixels (width x height), but the instances JSON says "
            f"{annotated.width}x{annotated.height}; both must be of one size"
        )
    try:
        mask = _painted(annotated)
    except DataError as error:
        raise DataError(f"{file.path}: {error}; mend the instances JSON") from error
    return photograph.sample(entry.key, labels=annotated.labels, mask=mask)


def load_pycocotools() -> Any:
    """The module ``pycocotools.mask``.

    Raises:
        DataError: it is not installed.
    """
    load_library("pycocotools", "the instances JSON needs")
    from pycocotools import mask

    return mask


def _painted(image: AnnotatedImage) -> NDArray[np.uint8]:
    """Truth of shape (H, W): a pixel keeps the smallest object, and among equals the first."""
    size = (image.height, image.width)
    mask = np.zeros(size, dtype=np.uint8)
    for annotation in sorted(image.annotations(), key=_area):
        try:
            covered = _covered(annotation.get("segmentation"), size)
        except DataError as error:
            raise DataError(f"annotation {annotation['id']}: {error}") from error
        mask[covered & (mask == 0)] = MASK_VALUES[annotation["category_id"]]
    return mask


def _area(annotation: Mapping[str, Any]) -> float:
    area: float | None = annotation["area"]
    if area is None:
        raise DataError(f"annotation {annotation['id']}: it has no area")
    return area


def _covered(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels an object covers, (H, W): a list of polygons, or a run-length encoding."""
    if isinstance(segmentation, list) and segmentation:
        coco = load_pycocotools()
        polygons = [_polygon(points, size) for points in segmentation]
        pixels = _decoded(coco.merge(coco.frPyObjects(polygons, *size)))
    elif isinstance(segmentation, dict):
        pixels = _pixels_of_runs(segmentation, size)
    else:
        raise DataError("its segmentation is neither a list of polygons nor a run-length encoding")
    covered: NDArray[np.bool_] = pixels.astype(bool)
    return covered


def _polygon(points: Any, size: tuple[int, int]) -> list[float]:
    """Checks a polygon: pycocotools takes four numbers for a box, and memory for as many pixels as an edge is long."""
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        count = len(points) if isinstance(points, list) else "no"
        raise DataError(f"a polygon has {count} numbers, expected x, y of three points or more")
    numbers = _numbers(points, "a polygon")
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > 10 * max(size):
        raise DataError(f"a polygon has points far outside of the image of {size[1]}x{size[0]} pixels")
    return [float(number) for number in numbers]


def _pixels_of_runs(encoding: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixels of a crowd, (H, W), from the lengths of its runs of 0 and 1 in turn, column by column.

    What is decoded is checked: pycocotools leaves pixels that the runs do not reach to chance.
    """
    counts = encoding.get("counts")
    if encoding.get("size") != list(size):
        raise DataError(f"its run-length encoding needs the image's size {list(size)} (height, width)")
    if isinstance(counts, list):
        return _pixels_of_counts(counts, size)
    if isinstance(counts, str):
        return _pixels_of_text(counts, size)
    raise DataError("its run-length encoding has no counts")


def _pixels_of_counts(counts: list[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = size[0] * size[1]
    runs = _numbers(counts, "a run-length encoding")
    if runs.dtype.kind == "f" or not ((runs >= 0) & (runs <= pixels)).all() or runs.sum() != pixels:
        raise DataError(f"its run lengths must be whole numbers that add up to the image's {pixels} pixels")
    coco = load_pycocotools()
    return _decoded(coco.frPyObjects({"size": list(size), "counts": counts}, *size))


def _pixels_of_text(text: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    coco = load_pycocotools()
    runs = {"size": list(size), "counts": text.encode("ascii", "replace")}
    try:
        # Text that ends within a number would be read beyond its end.
        pixels = _decoded(runs) if COMPRESSED_RUNS.fullmatch(text) else None
    except ValueError:
        pixels = None  # more pixels than the image has
    # All pixels together are never encoded as runs that leave some of them out.
    if pixels is None or coco.encode(pixels)["counts"] != runs["counts"]:
        raise DataError(f"its compressed run lengths are damaged, or not those of {size[0] * size[1]} pixels")
    return pixels


def _decoded(runs: Mapping[str, Any]) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        # pycocotools 2.0.11 does not know an argument of numpy 2's; nobody here can do anything about it.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        pixels: NDArray[np.uint8] = load_pycocotools().decode(runs)
    return pixels


def _numbers(values: list[Any], what: str) -> NDArray[Any]:
    try:
        numbers = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what} holds something else than numbers") from error
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise DataError(f"{what} holds something else than numbers")
    return numbers
