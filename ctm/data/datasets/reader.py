"""What every raw-data reader offers, and the checks that all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.config import DatasetConfig
from ctm.data.sample import Sample
from ctm.errors import ParamsError

__all__ = ["Reader", "check_channels", "class_table"]


class Reader(Protocol):
    """A raw data set: its classes, its splits, and one validated sample at a time."""

    @property
    def classes(self) -> ClassTable:
        """What the mask values mean."""

    @property
    def channels(self) -> int:
        """Number of image channels."""

    @property
    def scale(self) -> float:
        """Multiplier that brings stored pixel values to about [0, 1]."""

    def splits(self) -> Mapping[str, Sequence[str]]:
        """The keys of each split (``train``, ``val``) in an order that does not change between runs."""

    def read(self, split: str, key: str) -> Sample:
        """Reads and validates one sample.

        Raises:
            DataError: the sample is unreadable or inconsistent.
        """


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


def check_channels(config: DatasetConfig, channels: int) -> None:
    """Checks that the configuration asks for no other number of channels than the format has.

    Raises:
        ParamsError: it does.
    """
    if config.channels not in {None, channels}:
        raise ParamsError(
            f"dataset.channels is {config.channels}, but format {config.format!r} has {channels}; "
            "set it to null or to that number"
        )
