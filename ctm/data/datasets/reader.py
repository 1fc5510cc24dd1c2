"""What every raw data set offers, whatever its layout on disk, and the checks that all of them share.

A reader is a function ``open_<format>(config, tree) -> RawDataset``. It looks at names, lists and tables only; the
pictures are decoded later, sample by sample and in many processes, by the data set's ``decode``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.config import DatasetConfig
from ctm.data.inputs import PixelValues
from ctm.data.sample import Sample
from ctm.errors import ParamsError

__all__ = [
    "PHOTOGRAPH_CHANNELS",
    "Decode",
    "Entry",
    "Problem",
    "RawDataset",
    "RawFile",
    "check_channels",
    "class_table",
    "known_classes",
    "present_labels",
]


PHOTOGRAPH_CHANNELS = 3


class RawFile(NamedTuple):
    """A file of the raw data, read."""

    path: str
    """How messages name it."""
    data: bytes
    """Its contents."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample of a raw data set that has not been read yet.

    Attributes:
        key: unique in the data set; letters, digits, ``_`` and ``-`` (see ``safe_key``).
        files: the sample's files by role (``image``, ``mask``, ...), as paths in the tree; the image first.
        labels: image-level labels as mask values, where tables give them; None where decoding finds them in a mask.
        details: whatever else ``decode`` needs for this sample.
    """

    key: str
    files: Mapping[str, str]
    labels: tuple[int, ...] | None = None
    details: Any = None


class Problem(NamedTuple):
    """A file that cannot be used as it is."""

    path: str
    """The file's path in the tree."""
    message: str
    """What is wrong with it, where, and what to do."""


class Decode(Protocol):
    """Makes a sample of an entry and its files.

    It reads nothing else, can be sent to other processes, and gives the same sample each time.
    """

    def __call__(self, entry: Entry, files: Mapping[str, RawFile]) -> Sample:
        """Decodes and validates one sample.

        Args:
            entry: what is known of it.
            files: the contents of each of ``entry.files``, by role.

        Raises:
            DataError: a file is damaged or contradicts another.
        """


@dataclass(frozen=True)
class RawDataset:
    """A raw data set whose lists have been read; one of photographs unless it says otherwise.

    Attributes:
        classes: what the mask values mean.
        splits: the entries of ``train`` and ``val``, in an order that does not change between runs.
        decode: makes a sample of an entry.
        problems: files that should be there, or should fit the others, and do not; entries that have one of them are
            not used.
        left_out: how many samples the data set's own rules leave out, by reason.
        channels: number of image channels.
        scale: multiplier that brings stored pixel values to about [0, 1].
        tune: keys of train samples by whose masks settings were chosen; scores of the others are free of that.
        values: what the stored pixel values are: whoever has another image for the model must make the same of it.
    """

    classes: ClassTable
    splits: Mapping[str, Sequence[Entry]]
    decode: Decode
    problems: Sequence[Problem] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    channels: int = PHOTOGRAPH_CHANNELS
    scale: float = 1 / 255
    tune: frozenset[str] = frozenset()
    values: PixelValues = "bytes"


def class_table(names: Sequence[str], config: DatasetConfig) -> ClassTable:
    """The class table of ``names``, with the background that the configuration names.

    Raises:
        ParamsError: a name is given twice, there are too many, or the background is none of them.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ParamsError(f"class names must be unique, but these occur twice: {', '.join(twice)}")
    if len(names) > IGNORE:
        raise ParamsError(f"{len(names)} classes, but masks hold at most {IGNORE} (the value {IGNORE} means ignore)")
    if config.background is not None and config.background not in names:
        raise ParamsError(f"dataset.background {config.background!r} is no class; valid names: {', '.join(names)}")
    background = None if config.background is None else list(names).index(config.background)
    return ClassTable(names=tuple(names), background=background)


def known_classes(names: Sequence[str], config: DatasetConfig, *, background: int | None = None) -> ClassTable:
    """The class table of a format whose classes are fixed; the configuration may rename, not add or remove them.

    Args:
        names: the classes in the order of the mask values.
        config: may give them other names.
        background: the mask value that the configuration must call the background; None: whichever it likes.

    Raises:
        ParamsError: the configuration names another number of classes or another background, or see ``class_table``.
    """
    if config.classes is not None and len(config.classes) != len(names):
        raise ParamsError(
            f"dataset.classes has {len(config.classes)} names, but format {config.format!r} has {len(names)} classes: "
            f"{', '.join(names)}. Set it to null to take these"
        )
    classes = class_table(config.classes or names, config)
    if background is not None and classes.background != background:
        raise ParamsError(
            f"dataset.background is {config.background!r}, but mask value {background} of format {config.format!r} is "
            f"what belongs to no class: `--set dataset.background={classes.names[background]}`"
        )
    return classes


def check_channels(config: DatasetConfig, channels: int = PHOTOGRAPH_CHANNELS) -> None:
    """Checks that the configuration asks for no other number of channels than the format has.

    Raises:
        ParamsError: it does.
    """
    if config.channels not in {None, channels}:
        raise ParamsError(
            f"dataset.channels is {config.channels}, but format {config.format!r} has {channels}; "
            "set it to null or to that number"
        )


def present_labels(mask: NDArray[np.uint8], classes: ClassTable, *, min_fraction: float) -> tuple[int, ...]:
    """Classes with a token that cover at least ``min_fraction`` of ALL pixels of ``mask``, and at least one pixel."""
    pixels = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    least = max(1.0, min_fraction * mask.size)
    return tuple(k for k in classes.tokens if pixels[k] >= least)
