"""Which classes are taken for which: the confusion matrix as a file, and as the report shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ConfusedPair", "ConfusionTable", "confusion_json", "confusion_table"]

MOST_CLASSES = 25
"""More classes than these make no readable square: then pairs are shown."""

MOST_PAIRS = 12


@dataclass(frozen=True)
class ConfusedPair:
    """Pixels of the class ``truth`` that were taken for ``predicted``; ``share`` is of all true pixels of ``truth``."""

    truth: str
    predicted: str
    share: float
    pixels: int


@dataclass(frozen=True)
class ConfusionTable:
    """What the report shows of a confusion matrix: a square, or, where there are too many classes for one, pairs.

    Attributes:
        names: the classes, in the order of the rows and columns of ``shares``.
        shares: for each true class the share of its pixels that each class got, 0..1; None for a class without truth.
        pairs: the most frequent confusions, most pixels first.
    """

    names: Sequence[str]
    shares: Sequence[Sequence[float] | None] = ()
    pairs: Sequence[ConfusedPair] = ()


def confusion_json(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """The counts (K, K), row: true class, column: predicted class, as JSON with a line for each true class."""
    rows = ",\n    ".join(json.dumps(row) for row in counts.tolist())
    return f'{{\n  "classes": {json.dumps(list(names))},\n  "rows": [\n    {rows}\n  ]\n}}\n'


def confusion_table(counts: NDArray[np.int64], names: Sequence[str]) -> ConfusionTable | None:
    """The counts (K, K), row: true class, column: predicted class, for the report; None if there is no truth."""
    true = counts.sum(axis=1)
    if not true.any():
        return None
    if len(names) > MOST_CLASSES:
        return ConfusionTable(names, pairs=_pairs(counts, names))
    shares = [(row / total).tolist() if total else None for row, total in zip(counts, true, strict=True)]
    return ConfusionTable(names, shares)


def _pairs(counts: NDArray[np.int64], names: Sequence[str]) -> list[ConfusedPair]:
    """The largest counts off the diagonal; of equal ones the first in the order of the classes."""
    wrong, true = counts.copy(), counts.sum(axis=1)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    cells = [(int(k) // len(names), int(k) % len(names)) for k in order]
    return [
        ConfusedPair(names[row], names[column], float(wrong[row, column] / true[row]), int(wrong[row, column]))
        for row, column in cells
        if wrong[row, column]
    ]
