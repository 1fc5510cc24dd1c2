"""Masks of SBD (Semantic Boundaries Dataset) as its MATLAB files hold them: ``GTcls.Segmentation`` in ``cls/ID.mat``.

The little of MATLAB's format 5 that this takes is read here: ``scipy.io.loadmat`` ends the whole process by
a segmentation fault at many damaged files (scipy 1.17), and one bad file of 11,355 must be named, not end a run.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctm.data.datasets.photographs import check_size, check_values
from ctm.data.datasets.reader import RawFile
from ctm.errors import DataError

__all__ = ["read_sbd_mask"]

HEADER_BYTES = 128
VERSION_5 = b"\x00\x01IM"
"""How the header ends in files whose lowest byte comes first, as that of every present computer does."""
TAG = struct.Struct("<II")
MAX_INFLATED = 1 << 26
"""Bytes of the largest variable that is read; those of SBD are a hundred times smaller."""

INTEGERS = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 12: "<i8", 13: "<u8"}
"""Numpy's name of the data types that hold integers."""
MATRIX = 14
COMPRESSED = 15
STRUCT = 2
NUMERIC = range(6, 16)
"""Classes of arrays of numbers, double to uint64."""


class _Array(NamedTuple):
    """An array whose header has been read."""

    kind: int
    shape: tuple[int, ...]
    name: str
    contents: list[tuple[int, memoryview]]
    """Data type and bytes of each element behind the header."""


def read_sbd_mask(file: RawFile, *, size: tuple[int, int], names: Sequence[str]) -> NDArray[np.uint8]:
    """The class indices in a file of SBD's ``cls`` folder, (H, W).

    Args:
        file: a MATLAB file of version 5, compressed or not.
        size: height and width of the image that it belongs to.
        names: the classes; a value is an index into them.

    Raises:
        DataError: the file is damaged or no file of SBD, has another size, or a value that is no class.
    """
    try:
        mask = _segmentation(memoryview(file.data))
    except (struct.error, zlib.error, ValueError) as error:
        raise DataError(
            f"{file.path} is no readable MATLAB file of SBD ({error}); replace the file or remove it"
        ) from error
    check_size(file, mask.shape, size)
    check_values(file, mask, range(len(names)), f"0 to {len(names) - 1} (the classes)")
    return mask.astype(np.uint8)


def _segmentation(data: memoryview) -> NDArray[Any]:
    if data[HEADER_BYTES - len(VERSION_5) : HEADER_BYTES] != VERSION_5:
        raise ValueError("it does not begin as one of version 5")
    variables = {variable.name: variable for variable in map(_array, _variables(data[HEADER_BYTES:]))}
    if "GTcls" not in variables:
        raise ValueError(f"no variable 'GTcls'; found {list(variables)}")
    return _matrix(_field(variables["GTcls"], "Segmentation"))


def _variables(data: memoryview) -> Iterator[memoryview]:
    for kind, body in _elements(data):
        if kind == COMPRESSED:
            inflater = zlib.decompressobj()
            inflated = inflater.decompress(body, MAX_INFLATED)
            if not inflater.eof:
                raise ValueError("a compressed part of it ends early, or is far too large")
            yield from (inner for kind, inner in _elements(memoryview(inflated)) if kind == MATRIX)
        elif kind == MATRIX:
            yield body


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Data type and bytes of each element; up to 4 bytes stand in the element's tag itself."""
    start = 0
    while start < len(data):
        kind, size = TAG.unpack_from(data, start)
        begin = start + TAG.size
        if kind >> 16:
            kind, size, begin = kind & 0xFFFF, kind >> 16, start + TAG.size // 2
        body = data[begin : begin + size]
        if len(body) < size:
            raise ValueError("it ends early")
        yield kind, body
        start = begin + size
        if kind != COMPRESSED:
            start += -start % TAG.size


def _array(body: memoryview) -> _Array:
    elements = list(_elements(body))
    if len(elements) < 3:
        raise ValueError("an array in it has no header")
    flags, shape, (_, name), *contents = elements
    return _Array(_first(flags) & 0xFF, tuple(_integers(shape).tolist()), _text(name), contents)


def _field(array: _Array, name: str) -> _Array:
    """A field of a struct of one element."""
    if array.kind != STRUCT or math.prod(array.shape) != 1:
        raise ValueError(f"{array.name!r} is no struct of one element")
    lengths, (_, text), *values = array.contents
    length = max(1, _first(lengths))
    names = [_text(text[start : start + length]) for start in range(0, len(text), length)]
    if name not in names[: len(values)]:
        raise ValueError(f"{array.name!r} has no field {name!r}; found {names}")
    return _array(values[names.index(name)][1])


def _matrix(array: _Array) -> NDArray[Any]:
    """The values of an array of two dimensions."""
    if array.kind not in NUMERIC or not array.contents or len(array.shape) != 2:
        raise ValueError("its mask is no matrix of numbers")
    values = _integers(array.contents[0])
    if values.size != math.prod(array.shape):
        raise ValueError(f"its mask of size {array.shape} has {values.size} values")
    return values.reshape(array.shape, order="F")


def _integers(element: tuple[int, memoryview]) -> NDArray[Any]:
    kind, body = element
    if kind not in INTEGERS:
        raise ValueError(f"data type {kind} where integers should be")
    return np.frombuffer(body, INTEGERS[kind])


def _first(element: tuple[int, memoryview]) -> int:
    values = _integers(element)
    if not values.size:
        raise ValueError("an element in it is empty")
    return int(values[0])


def _text(data: memoryview) -> str:
    return bytes(data).split(b"\0")[0].decode("ascii", "replace")
