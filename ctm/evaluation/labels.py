"""Scores of image-level labels: mean average precision and the paper's multi-label accuracy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ctm.data.classes import ClassTable
from ctm.pseudomasks.ranking import rank
from ctm.stage import Metrics

__all__ = ["LabelScore"]


class LabelScore:
    """Collects a classifier's logits over a split and scores them.

    All logits are kept (N × C numbers), because average precision is exact only on the whole ranking.
    """

    def __init__(self, classes: ClassTable) -> None:
        self._names = classes.token_names
        self._logits: list[NDArray[np.float64]] = []
        self._labels: list[NDArray[np.bool_]] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: logits (B, C) and whether each class is present (B, C)."""
        self._logits.append(logits.detach().double().cpu().numpy())
        self._labels.append(labels.bool().cpu().numpy())

    def compute(self) -> Metrics:
        """Scores of all batches added so far.

        Returns:
            ``map``: mean average precision over the classes with a positive image; ``chance_map``: what a random
            ranking gets on average; ``accuracy``: share of (image, class) pairs with (probability > 0.5) == label, the
            paper's classifier accuracy; ``classes``: the average precision of each class. All 0..1; None where there is
            no image to say it.
        """
        shape = (0, len(self._names))
        logits = np.concatenate([np.empty(shape), *self._logits])
        labels = np.concatenate([np.empty(shape, dtype=bool), *self._labels])
        found = rank(logits, labels)
        return {
            "map": found.map,
            "chance_map": found.chance,
            "accuracy": float(((logits > 0) == labels).mean()) if len(labels) else None,
            "classes": dict(zip(self._names, found.classes, strict=True)),
        }
