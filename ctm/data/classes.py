"""The classes of a data set: what each mask value means, which have a class token, and their colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctm.errors import ArtifactError

__all__ = ["IGNORE", "ClassTable", "check_same_classes"]

IGNORE = 255
"""Mask value of pixels that have no truth or no decision."""


@dataclass(frozen=True)
class ClassTable:
    """Mask values and class tokens.

    Attributes:
        names: mask value ``k`` means ``names[k]``; at most 255 of them, 255 being ``IGNORE``.
        background: the mask value that has no class token and is never an image-level label, or None
            where every class has a token (DFC2020, ADE20K's 151 classes).
    """

    names: tuple[str, ...]
    background: int | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """The mask value of each class token, in token order."""
        return tuple(k for k in range(len(self.names)) if k != self.background)

    @property
    def token_names(self) -> tuple[str, ...]:
        """The class name of each class token."""
        return tuple(self.names[k] for k in self.tokens)

    def palette(self) -> NDArray[np.uint8]:
        """PASCAL VOC's colours, (256, 3): the bits of the index dealt out to the three channels, highest bit first."""
        index = np.arange(256)
        palette = np.zeros((256, 3), dtype=np.uint8)
        for bit in range(8):
            for channel in range(3):
                palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
        palette[IGNORE] = (224, 224, 192)
        return palette


def check_same_classes(**tables: ClassTable) -> None:
    """Checks that artifacts speak of the same classes in the same order, with the same background.

    Args:
        tables: the class table of each artifact, by the artifact's name.

    Raises:
        ArtifactError: two of them differ.
    """
    (first, wanted), *others = tables.items()
    for name, table in others:
        if table != wanted:
            raise ArtifactError(
                f"{name} and {first} were made for other classes ({_words(table)}; {_words(wanted)}): they do not "
                "belong together. Run the stages in order, or `dvc repro`."
            )


def _words(table: ClassTable) -> str:
    background = "no background" if table.background is None else f"background {table.names[table.background]}"
    return f"{', '.join(table.names[:8])}{', …' if len(table.names) > 8 else ''}, {background}"
