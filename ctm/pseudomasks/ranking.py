"""Whether a classifier ranks images better than chance: mean average precision in numpy, since merging has no torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ranking", "average_precision", "has_learned", "not_learned", "rank"]

LEARNED = 0.2
"""Share of the way from chance to a perfect mAP below which a classifier counts as not having learned."""


class Ranking(NamedTuple):
    """How well logits rank the images, all 0..1.

    Attributes:
        map: mean average precision over the classes with a positive image; None if no class has one.
        chance: what a random ranking gets on average, over the same classes; None with ``map``.
        classes: average precision of each class, None where no image is positive.
    """

    map: float | None
    chance: float | None
    classes: list[float | None]


def rank(logits: NDArray[np.floating[Any]], labels: NDArray[np.bool_]) -> Ranking:
    """Scores the ranking of the images by each class.

    Args:
        logits: (N, C).
        labels: whether each class is present, (N, C).
    """
    classes = [average_precision(logits[:, c], labels[:, c]) for c in range(labels.shape[1])]
    known = [value for value in classes if value is not None]
    if not known:
        return Ranking(None, None, classes)
    chance = [_random_precision(len(labels), int(count)) for count in labels.sum(axis=0) if count]
    return Ranking(sum(known) / len(known), sum(chance) / len(chance), classes)


def average_precision(scores: NDArray[np.floating[Any]], present: NDArray[np.bool_]) -> float | None:
    """The mean over the positives of the precision at their rank, exact; equal scores share the last of their ranks.

    Args:
        scores: (N,), the larger, the likelier.
        present: which are positive, (N,).

    Returns:
        0..1; None without a positive.
    """
    if not present.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # the last of each run of equal scores
    hits = present[order].cumsum()[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])


def _random_precision(images: int, positives: int) -> float:
    """The expected average precision of a random order, 0..1.

    A positive at rank r has the precision (1 + the expected number of positives before it) / r. The mean over the ranks
    is far above the share of positives where these are few: 0.34 for one of eight images.
    """
    if images == 1:
        return 1.0
    harmonic = float((1 / np.arange(1, images + 1)).sum())
    return ((positives - 1) / (images - 1) * (images - harmonic) + harmonic) / images


def has_learned(found: float | None, chance: float | None) -> bool:
    """Whether a mean average precision tells a classifier that has learned from a random ranking.

    Args:
        found: mean average precision (0..1), or None where no image says it: nothing can be held against it then.
        chance: what a random ranking gets, None together with ``found``.
    """
    return found is None or chance is None or found - chance >= LEARNED * (1 - chance)


def not_learned(split: str, found: float | None, chance: float | None) -> str:
    """What a reader of the log or the report must know of a classifier that has not ``has_learned``."""
    figure, random = ("unknown" if value is None else f"{value:.3f}" for value in (found, chance))
    return (
        f"The classifier has hardly learned: its {split} mAP is {figure}, and a random ranking gets {random}. "
        "Masks made from it are no better than chance; train longer, or from pretrained weights."
    )
