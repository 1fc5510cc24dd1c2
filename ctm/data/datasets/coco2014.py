"""Reader of MS-COCO 2014: 80 classes of objects and a background, from the instances JSON or from masks made of it.

The truth of an image is painted from its objects as the field does it (coco2voc): in ascending area, and a pixel
keeps the first, smallest object; crowds count as objects, and there is no void border.
"""

from __future__ import annotations

import json
import logging
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.config import DatasetConfig
from ctm.data.datasets.listing import find_prefix, folder_files, problem
from ctm.data.datasets.photographs import check_size, check_values, read_photograph
from ctm.data.datasets.reader import (
    Decode,
    Entry,
    Problem,
    RawDataset,
    RawFile,
    check_channels,
    known_classes,
    present_labels,
)
from ctm.data.sample import Sample, decode_mask, safe_key
from ctm.errors import DataError, ParamsError
from ctm.runtime.storage import Tree

__all__ = ["CATEGORY_IDS", "CLASS_NAMES", "open_coco2014"]

logger = logging.getLogger(__name__)

# fmt: off
CLASS_NAMES = (
    "background", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
"""What the mask values 0..80 mean."""
NEVER_USED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in NEVER_USED)
"""COCO's category id of the mask values 1..80."""
MASK_VALUES = {number: rank for rank, number in enumerate(CATEGORY_IDS, start=1)}
"""The mask value of each category id."""

SPLITS = ("train", "val")
JPEG = (".jpg", ".jpeg")
PNG = (".png",)
WINDOW = 1 << 20
"""Bytes of a JSON file that are text at a time."""

Encoding = Literal["contiguous", "category_id"]
ENCODINGS: dict[Encoding, str] = {
    "contiguous": "0 to 80 (dataset.mask_encoding: contiguous)",
    "category_id": "0 and COCO's 80 category ids up to 90 (dataset.mask_encoding: category_id)",
}
PROOFS: dict[Encoding, frozenset[int]] = {
    "contiguous": frozenset(number for number in NEVER_USED if number <= 80),
    "category_id": frozenset(range(81, 91)),
}
"""Values that occur in one encoding only: all others occur in both, with another meaning."""
PROOF_MASKS = 2000
"""From how many masks the encoding is recognised: some classes are rare, but no proof is that rare."""


def open_coco2014(config: DatasetConfig, tree: Tree) -> RawDataset:
    """COCO 2014 as it is unpacked, or with masks in ``SegmentationClass``.

    Where the files lie, here or in a folder below::

        train2014/COCO_train2014_000000000009.jpg       or JPEGImages/train2014/, or JPEGImages/train/
        val2014/COCO_val2014_000000000042.jpg           likewise
        annotations/instances_{train,val}2014.json      for labels_from: annotations
        SegmentationClass/train2014/COCO_train2014_000000000009.png     for labels_from: masks; or train/

    Images without an annotation, or without a mask, are left out, as usual (82,081 train and 40,137 val remain).

    Raises:
        DataError: a folder or the JSON is missing, the JSON is damaged, contradicts itself or is not COCO's, or the
            encoding of the masks cannot be told.
        ParamsError: the configuration contradicts the format.
    """
    check_channels(config, 3)
    classes = known_classes(CLASS_NAMES, config)
    if classes.background != 0:
        raise ParamsError(
            f"format 'coco2014' has a background at mask value 0: set dataset.background to {classes.names[0]!r}"
        )
    if config.labels_from == "masks":
        encoding = config.mask_encoding or _recognised(tree)
        decode = _DecodeMasked(classes, encoding, config.min_label_fraction)
        return _dataset(classes, {split: _masked(tree, split) for split in SPLITS}, decode)
    if config.mask_encoding is not None:
        raise ParamsError("dataset.mask_encoding is for dataset.labels_from: masks; set it to null")
    _load_pycocotools()
    return _dataset(classes, {split: _annotated(tree, split) for split in SPLITS}, _decode_annotated)


class _Split(NamedTuple):
    """What was found of one split."""

    entries: list[Entry]
    problems: list[Problem]
    left_out: dict[str, int]


def _dataset(classes: ClassTable, splits: Mapping[str, _Split], decode: Decode) -> RawDataset:
    return RawDataset(
        classes,
        channels=3,
        scale=1 / 255,
        splits={name: split.entries for name, split in splits.items()},
        decode=decode,
        problems=[found for split in splits.values() for found in split.problems],
        left_out={reason: count for split in splits.values() for reason, count in split.left_out.items()},
    )


def _annotated(tree: Tree, split: str) -> _Split:
    """The images that have annotations."""
    folder, path = _image_folder(tree, split), _instances_path(tree, split)
    images = folder_files(tree, folder, suffixes=JPEG)
    logger.info("reading %s (%d MB)", tree.place(path), tree.files[path].size // 10**6)
    data = tree.read(path)
    try:
        found = _read_instances(data)
    except DataError as error:
        raise DataError(f"{tree.place(path)}: {error}") from error
    entries, problems = [], []
    for number in sorted(found.spans, key=lambda number: (found.images[number].stem, number)):
        stem, height, width = found.images[number]
        if stem in images:
            details = _Objects(height, width, _packed(data, found.spans[number]))
            labels = tuple(sorted(found.labels[number]))
            entries.append(Entry(safe_key(stem), {"image": images[stem]}, labels, details))
        else:
            message = f"missing, but {tree.place(path)} lists it; unpack it or remove image {number} from the list"
            problems.append(problem(tree, f"{folder}/{stem}.jpg", message))
    listed = {image.stem for image in found.images.values()}
    left_out = {
        f"{split} images without annotation": len(found.images) - len(found.spans),
        f"{split} JPEGs that are not in the instances JSON": len(images.keys() - listed),
    }
    return _Split(entries, problems, left_out)


def _packed(data: bytes, spans: array[int]) -> bytes:
    """The annotations between the given positions as one compressed JSON array: all stay in memory until decoded."""
    objects = (data[start:end] for start, end in zip(spans[::2], spans[1::2], strict=True))
    return zlib.compress(b"[" + b",".join(objects) + b"]", 1)


def _image_folder(tree: Tree, split: str) -> str:
    folder = _folder(tree, (f"{split}2014", f"JPEGImages/{split}"), suffixes=JPEG)
    if folder is None:
        raise DataError(
            f"{tree.uri} holds no {split} images of COCO 2014: expected JPEGs in {split}2014/, "
            f"JPEGImages/{split}2014/ or JPEGImages/{split}/, there or in a folder below"
        )
    return folder


def _folder(tree: Tree, spellings: Sequence[str], *, suffixes: tuple[str, ...]) -> str | None:
    """The shallowest folder of one of the given names that holds files with one of ``suffixes``."""
    folders = {path.rpartition("/")[0] for path in tree.files if path.lower().endswith(suffixes)}
    for spelling in spellings:
        found = [folder for folder in folders if f"/{folder}".endswith(f"/{spelling}")]
        if found:
            return min(found, key=lambda folder: (folder.count("/"), folder))
    return None


def _instances_path(tree: Tree, split: str) -> str:
    name = f"annotations/instances_{split}2014.json"
    path = f"{find_prefix(tree, name) or ''}{name}"
    if path not in tree.files:
        raise DataError(
            f"{tree.uri} holds no {name}: unpack annotations_trainval2014.zip there, or set dataset.labels_from to "
            "masks to read SegmentationClass"
        )
    return path


# The instances JSON. The file of train has 450 MB and 600,000 objects: its parsed tree would take gigabytes, so it is
# read object by object, and only the text of the objects is kept, compressed, until their image is decoded.


class _Image(NamedTuple):
    """What the JSON says of an image."""

    stem: str
    height: int
    width: int


class _Objects(NamedTuple):
    """The details of an entry."""

    height: int
    width: int
    annotations: bytes
    """The image's annotations, see ``_packed``."""


@dataclass(frozen=True)
class _Instances:
    """What is kept of an instances JSON, by image id; images without annotation have neither spans nor labels."""

    images: dict[int, _Image]
    spans: dict[int, array[int]]
    """Where each annotation of the image starts and ends in the file, one after the other."""
    labels: dict[int, set[int]]


def _read_instances(data: bytes) -> _Instances:
    found = _Instances({}, {}, {})
    categories: dict[Any, Any] = {}
    for section, value, start, end in _JsonReader(data).items():
        if section == "images":
            _add_image(found, value, start)
        elif section == "annotations":
            _add_annotation(found, value, start, end)
        elif section == "categories":
            number, name = _fields(value, start, id=int, name=str)
            categories[number] = name
    _check_categories(categories)
    unknown = sorted(found.spans.keys() - found.images.keys())
    if unknown:
        raise DataError(f"annotations of {len(unknown)} images that it does not list, such as image {unknown[0]}")
    return found


def _add_image(found: _Instances, value: Any, start: int) -> None:
    number, name, height, width = _fields(value, start, id=int, file_name=str, height=int, width=int)
    if number in found.images:
        raise DataError(f"image {number} is listed twice")
    found.images[number] = _Image(PurePosixPath(name).stem, height, width)


def _add_annotation(found: _Instances, value: Any, start: int, end: int) -> None:
    number, image, category = _fields(value, start, id=int, image_id=int, category_id=int)
    if category not in MASK_VALUES:
        raise DataError(f"annotation {number} has category {category}, which is none of COCO's 80")
    if image not in found.spans:
        found.spans[image], found.labels[image] = array("Q"), set()
    found.spans[image].extend((start, end))
    found.labels[image].add(MASK_VALUES[category])


def _fields(value: Any, start: int, **kinds: type) -> list[Any]:
    """The named fields of an object.

    Raises:
        DataError: it is no object, or a field is missing or of another type.
    """
    found = [value.get(name) if isinstance(value, dict) else None for name in kinds]
    for (name, kind), field in zip(kinds.items(), found, strict=True):
        if not isinstance(field, kind):
            raise DataError(f"the entry at byte {start} has no valid {name!r}; it needs {', '.join(kinds)}")
    return found


def _check_categories(found: Mapping[Any, Any]) -> None:
    wanted = dict(zip(CATEGORY_IDS, CLASS_NAMES[1:], strict=True))
    for number in sorted({*wanted, *found}):
        if found.get(number) != wanted.get(number):
            raise DataError(
                f"its categories are not COCO's 80: category {number} is {found.get(number, 'missing')!r}, "
                f"expected {wanted.get(number, 'no such category')!r}"
            )


class _JsonReader:
    """Reads a JSON document value by value.

    The text is decoded as Latin-1, one character a byte, so that positions in it are those of bytes, and a window at
    a time. JSON's own characters are ASCII; strings with others come out garbled, and COCO's that matter have none.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
        self._text = ""
        self._at = 0
        self._decoder = json.JSONDecoder()

    def items(self) -> Iterator[tuple[str, Any, int, int]]:
        """The document's sections, element by element where they are lists: name, value, start and end.

        Raises:
            DataError: the document is damaged, or no object.
        """
        self._take("{")
        while self._peek() != "}":
            name = str(self._value()[0])
            self._take(":")
            if self._peek() == "[":
                for value in self._elements():
                    yield name, *value
            else:
                yield name, *self._value()
            if self._peek() != "}":
                self._take(",")

    def _elements(self) -> Iterator[tuple[Any, int, int]]:
        self._take("[")
        while self._peek() != "]":
            yield self._value()
            if self._peek() != "]":
                self._take(",")
        self._take("]")

    def _value(self) -> tuple[Any, int, int]:
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if not self._grow():
                    raise self._error("a value") from error
                continue
            # What ends with the window, such as a number, may go on.
            if end < len(self._text) or not self._grow():
                break
        start, self._at = self._at, end
        return value, self._start + start, self._start + end

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise self._error(repr(character))
        self._at += 1

    def _peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while self._at < len(self._text) or self._grow():
            if self._text[self._at] not in " \t\n\r":
                return self._text[self._at]
            self._at += 1
        return ""

    def _grow(self) -> bool:
        """Drops what has been read from the window and makes it longer; whether anything was left to add."""
        end = self._start + len(self._text)
        rest = self._text[self._at :]
        more = self._data[end : end + max(WINDOW, len(rest))]
        if more:
            self._start += self._at
            self._text, self._at = rest + more.decode("latin-1"), 0
        return bool(more)

    def _error(self, wanted: str) -> DataError:
        place = self._start + self._at
        where = f"byte {place} of {len(self._data)}"
        return DataError(f"no valid JSON: expected {wanted} at {where}; is the file complete? Download it again")


# The truth of one image.


def _decode_annotated(entry: Entry, files: Mapping[str, RawFile]) -> Sample:
    photograph = read_photograph(files["image"])
    objects: _Objects = entry.details
    height, width = size = (objects.height, objects.width)
    if photograph.size != size:
        raise DataError(
            f"{files['image'].path}: the image is {photograph.size[1]}x{photograph.size[0]} pixels (width x height), "
            f"but the instances JSON says {width}x{height}; both must be of one size"
        )
    try:
        mask = _painted(json.loads(zlib.decompress(objects.annotations).decode("latin-1")), size)
    except DataError as error:
        raise DataError(f"{files['image'].path}: {error}; mend the instances JSON") from error
    return Sample(
        entry.key,
        photograph.data,
        photograph.extension,
        height,
        width,
        entry.labels or (),
        mask,
        notes=photograph.notes,
    )


def _painted(annotations: list[dict[str, Any]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Truth of shape (H, W): a pixel keeps the smallest object, and among equals the first."""
    mask = np.zeros(size, dtype=np.uint8)
    for annotation in sorted(annotations, key=_area):
        try:
            covered = _covered(annotation.get("segmentation"), size)
        except DataError as error:
            raise DataError(f"annotation {annotation['id']}: {error}") from error
        mask[covered & (mask == 0)] = MASK_VALUES[annotation["category_id"]]
    return mask


def _area(annotation: Mapping[str, Any]) -> float:
    area = annotation.get("area")
    if not isinstance(area, int | float) or not abs(area) < float("inf"):
        raise DataError(f"annotation {annotation['id']}: its area is {area!r}, expected a number")
    return area


def _covered(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels an object covers, (H, W): a list of polygons, or a run-length encoding."""
    if isinstance(segmentation, list) and segmentation:
        coco = _load_pycocotools()
        polygons = [_polygon(points, size) for points in segmentation]
        runs = _unpacked_runs(coco.merge(coco.frPyObjects(polygons, *size))["counts"].decode())
    elif isinstance(segmentation, dict):
        runs = _runs(segmentation, size)
    else:
        raise DataError("its segmentation is neither a list of polygons nor a run-length encoding")
    # Runs of pixels outside and inside in turn, column by column.
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _polygon(points: Any, size: tuple[int, int]) -> list[float]:
    """Checks a polygon: pycocotools takes four numbers for a box, and memory for as many pixels as an edge is long."""
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        count = len(points) if isinstance(points, list) else "no"
        raise DataError(f"a polygon has {count} numbers, expected x, y of three points or more")
    numbers = _numbers(points, "a polygon")
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > 10 * max(size):
        raise DataError(f"a polygon has points far outside of the image of {size[1]}x{size[0]} pixels")
    return [float(number) for number in numbers]


def _runs(encoding: Mapping[str, Any], size: tuple[int, int]) -> list[int]:
    """The run lengths of a crowd, checked: pycocotools would leave pixels that they do not reach to chance."""
    counts = encoding.get("counts")
    if isinstance(counts, str):
        counts = _unpacked_runs(counts)
    if encoding.get("size") != list(size) or not isinstance(counts, list):
        raise DataError(f"its run-length encoding needs counts, and the image's size {list(size)} (height, width)")
    runs = _numbers(counts, "a run-length encoding")
    if not runs.size or runs.dtype.kind == "f" or runs.min() < 0 or runs.sum() != size[0] * size[1]:
        raise DataError(f"its run lengths must be whole numbers that add up to the image's {size[0] * size[1]} pixels")
    return [int(run) for run in runs]


def _numbers(values: list[Any], what: str) -> NDArray[Any]:
    try:
        numbers = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what} holds something else than numbers") from error
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise DataError(f"{what} holds something else than numbers")
    return numbers


def _unpacked_runs(text: str) -> list[int]:
    """Run lengths in COCO's compressed text: 5 bits a character from ``0`` on, the lowest first, and a sixth that says
    whether the number goes on; from the fourth number on, the difference to the last but one.
    """
    runs: list[int] = []
    number = bits = 0
    for character in text:
        code = ord(character) - ord("0")
        if not 0 <= code < 64 or bits > 30:
            raise DataError(f"its run-length encoding holds {character!r}, which belongs to no number")
        number |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            number -= 1 << bits
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = bits = 0
    if bits:
        raise DataError("its run-length encoding ends within a number")
    return runs


def _load_pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DataError(
            "the instances JSON needs pycocotools, which is not installed: pip install 'ctm[data]'"
        ) from error
    return mask


# Masks that others have made of the JSON.


def _masked(tree: Tree, split: str) -> _Split:
    """The images that have a mask."""
    folder = _image_folder(tree, split)
    images, masks = folder_files(tree, folder, suffixes=JPEG), _mask_files(tree, split)
    both = sorted(images.keys() & masks.keys())
    entries = [Entry(safe_key(stem), {"image": images[stem], "mask": masks[stem]}) for stem in both]
    message = f"no image of this name in {tree.place(folder)}; add it or remove the mask"
    problems = [problem(tree, masks[stem], message) for stem in sorted(masks.keys() - images.keys())]
    return _Split(entries, problems, {f"{split} images without a mask": len(images) - len(both)})


def _mask_files(tree: Tree, split: str) -> dict[str, str]:
    folder = _folder(tree, (f"SegmentationClass/{split}2014", f"SegmentationClass/{split}"), suffixes=PNG)
    if folder is None:
        raise DataError(
            f"{tree.uri} holds no {split} masks: expected PNGs in SegmentationClass/{split}2014/ or "
            f"SegmentationClass/{split}/. Set dataset.labels_from to annotations to make them from the instances JSON"
        )
    return folder_files(tree, folder, suffixes=PNG)


def _recognised(tree: Tree) -> Encoding:
    """The encoding of all masks, from the values that at most ``PROOF_MASKS`` of them hold.

    Raises:
        DataError: the masks are of both encodings, or nothing tells which.
    """
    paths = [path for split in SPLITS for path in _mask_files(tree, split).values()]
    count = min(len(paths), PROOF_MASKS)
    proofs: dict[Encoding, str] = {}
    for path, values in _mask_values(tree, [paths[number * len(paths) // count] for number in range(count)]):
        for encoding, proof in PROOFS.items():
            if values & proof:
                proofs.setdefault(encoding, path)
    if len(proofs) > 1:
        raise DataError(
            f"the masks are of two encodings: {tree.place(proofs['category_id'])} holds category ids above 80, "
            f"{tree.place(proofs['contiguous'])} a value that is no category id; make all of one kind"
        )
    if not proofs:
        raise DataError(
            f"{tree.uri}: none of {count} masks holds a value that tells their encoding; set dataset.mask_encoding to "
            "contiguous (values 0 to 80) or category_id (COCO's ids up to 90)"
        )
    encoding = next(iter(proofs))
    logger.info("mask values are %s, as recognised from %d of %d masks", ENCODINGS[encoding], count, len(paths))
    return encoding


def _mask_values(tree: Tree, paths: Sequence[str]) -> Iterator[tuple[str, set[int]]]:
    """The values of each mask; those that cannot be read are for ``decode`` to complain of."""
    for start in range(0, len(paths), 64):
        batch = paths[start : start + 64]
        for path, data in tree.read_all({path: tree.files[path] for path in batch}).items():
            try:
                mask = decode_mask(data)
            except DataError:
                continue
            yield path, set(np.flatnonzero(np.bincount(mask.ravel())).tolist())


@dataclass(frozen=True)
class _DecodeMasked:
    """Makes a sample of an image and its mask."""

    classes: ClassTable
    encoding: Encoding
    min_label_fraction: float

    def __call__(self, entry: Entry, files: Mapping[str, RawFile]) -> Sample:
        photograph = read_photograph(files["image"])
        mask = self._mask(files["mask"], photograph.size)
        labels = present_labels(mask, self.classes, min_fraction=self.min_label_fraction)
        height, width = photograph.size
        return Sample(
            entry.key, photograph.data, photograph.extension, height, width, labels, mask, notes=photograph.notes
        )

    def _mask(self, file: RawFile, size: tuple[int, int]) -> NDArray[np.uint8]:
        try:
            stored = decode_mask(file.data)
        except DataError as error:
            raise DataError(f"{file.path}: {error}") from error
        check_size(file, stored.shape, size)
        meaning = {0: 0} | (MASK_VALUES if self.encoding == "category_id" else {k: k for k in MASK_VALUES.values()})
        check_values(file, stored, meaning, ENCODINGS[self.encoding])
        table = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        table[list(meaning)] = list(meaning.values())
        return table[stored]
