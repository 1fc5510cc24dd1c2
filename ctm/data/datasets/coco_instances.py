"""COCO's instances JSON, read object by object.

The file of train has 450 MB and 600,000 objects. Its parsed tree would take gigabytes, so no more than one object is
parsed at a time, and of the objects only the text is kept, compressed, until their image is decoded.
"""

from __future__ import annotations

import json
import logging
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ctm.data.datasets.coco_classes import CATEGORY_IDS, CLASS_NAMES, MASK_VALUES
from ctm.errors import DataError
from ctm.runtime.storage import Tree

__all__ = ["AnnotatedImage", "read_instances"]

logger = logging.getLogger(__name__)

BYTE_ORDER_MARK = b"\xef\xbb\xbf".decode("latin-1")


class AnnotatedImage(NamedTuple):
    """What the JSON says of an image."""

    number: int
    """COCO's id of it."""
    stem: str
    """Its file name without suffix."""
    height: int
    width: int
    labels: tuple[int, ...]
    """Mask values of its objects, ascending; empty if it has none."""
    packed: bytes
    """Its annotations, see ``annotations``."""

    def annotations(self) -> list[dict[str, Any]]:
        """Its annotations in the order of the file."""
        found: list[dict[str, Any]] = json.loads(zlib.decompress(self.packed).decode("latin-1"))
        return found


def read_instances(tree: Tree, path: str) -> list[AnnotatedImage]:
    """The images in an instances JSON, by name.

    Raises:
        DataError: the JSON is damaged, contradicts itself or is not COCO's.
    """
    logger.info("reading %s (%d MB)", tree.place(path), tree.files[path].size // 10**6)
    # As Latin-1 a character is a byte, in memory too. JSON's own characters are ASCII; strings with others come out
    # garbled, and COCO's that matter have none.
    text = tree.read(path).decode("latin-1")
    try:
        return _images(text)
    except DataError as error:
        raise DataError(f"{tree.place(path)}: {error}") from error


@dataclass(frozen=True)
class _Objects:
    """What is kept of the objects of an image while the file is read."""

    spans: array[int] = field(default_factory=lambda: array("Q"))
    """Where each begins and ends in the text, one after the other."""
    labels: set[int] = field(default_factory=set)


def _images(text: str) -> list[AnnotatedImage]:
    images: dict[int, tuple[str, int, int]] = {}
    objects: defaultdict[int, _Objects] = defaultdict(_Objects)
    categories: dict[int, str] = {}
    for section, value, start, end in _JsonReader(text).items():
        if section == "images":
            _add_image(images, value, start)
        elif section == "annotations":
            _add_object(objects, value, start, end)
        elif section == "categories":
            number, name = _fields(value, start, id=int, name=str)
            categories[number] = name
    _check_categories(categories)
    unknown = sorted(objects.keys() - images.keys())
    if unknown:
        raise DataError(f"annotations of {len(unknown)} images that it does not list, such as image {unknown[0]}")
    found = [
        AnnotatedImage(number, *image, tuple(sorted(objects[number].labels)), _packed(text, objects[number].spans))
        for number, image in images.items()
    ]
    return sorted(found, key=lambda image: (image.stem, image.number))


def _add_image(images: dict[int, tuple[str, int, int]], value: Any, start: int) -> None:
    number, name, height, width = _fields(value, start, id=int, file_name=str, height=int, width=int)
    if number in images:
        raise DataError(f"image {number} is listed twice")
    images[number] = (PurePosixPath(name).stem, height, width)


def _add_object(objects: Mapping[int, _Objects], value: Any, start: int, end: int) -> None:
    number, image, category = _fields(value, start, id=int, image_id=int, category_id=int)
    if category not in MASK_VALUES:
        raise DataError(f"annotation {number} has category {category}, which is none of COCO's 80")
    objects[image].spans.extend((start, end))
    objects[image].labels.add(MASK_VALUES[category])


def _packed(text: str, spans: array[int]) -> bytes:
    """The annotations between the given positions as one compressed JSON array: all stay in memory until decoded."""
    annotations = ",".join(text[start:end] for start, end in zip(spans[::2], spans[1::2], strict=True))
    return zlib.compress(f"[{annotations}]".encode("latin-1"), 1)


def _fields(value: Any, start: int, **kinds: type) -> list[Any]:
    """The named fields of an object.

    Raises:
        DataError: it is no object, or a field is missing or of another type.
    """
    found = [value.get(name) if isinstance(value, dict) else None for name in kinds]
    for (name, kind), content in zip(kinds.items(), found, strict=True):
        if not isinstance(content, kind):
            raise DataError(f"the entry at byte {start} has no valid {name!r}; it needs {', '.join(kinds)}")
    return found


def _check_categories(found: Mapping[int, str]) -> None:
    wanted = dict(zip(CATEGORY_IDS, CLASS_NAMES[1:], strict=True))
    for number in sorted({*wanted, *found}):
        if found.get(number) != wanted.get(number):
            raise DataError(
                f"its categories are not COCO's 80: category {number} is {found.get(number, 'missing')!r}, "
                f"expected {wanted.get(number, 'no such category')!r}"
            )


class _JsonReader:
    """Reads a JSON document value by value."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = len(BYTE_ORDER_MARK) if text.startswith(BYTE_ORDER_MARK) else 0
        self._decode = json.JSONDecoder().raw_decode

    def items(self) -> Iterator[tuple[str, Any, int, int]]:
        """The document's sections, element by element where they are lists: name, value, start and end.

        Raises:
            DataError: the document is damaged, or no object.
        """
        self._take("{")
        while self._next() != "}":
            name = str(self._value()[0])
            self._take(":")
            if self._next() == "[":
                for value in self._elements():
                    yield name, *value
            else:
                yield name, *self._value()
            if self._next() != "}":
                self._take(",")

    def _elements(self) -> Iterator[tuple[Any, int, int]]:
        self._take("[")
        while self._next() != "]":
            yield self._value()
            if self._next() != "]":
                self._take(",")
        self._take("]")

    def _value(self) -> tuple[Any, int, int]:
        self._next()
        start = self._at
        try:
            value, self._at = self._decode(self._text, start)
        except (ValueError, RecursionError) as error:
            raise self._error("a value") from error
        return value, start, self._at

    def _take(self, character: str) -> None:
        if self._next() != character:
            raise self._error(repr(character))
        self._at += 1

    def _next(self) -> str:
        """The next character that is no white space; empty at the end."""
        while self._text.startswith((" ", "\t", "\n", "\r"), self._at):
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _error(self, wanted: str) -> DataError:
        where = f"byte {self._at} of {len(self._text)}"
        return DataError(f"no valid JSON: expected {wanted} at {where}; is the file complete? Download it again")
