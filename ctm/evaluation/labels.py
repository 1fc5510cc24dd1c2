"""Scores of image-level labels: mean average precision and the paper's multi-label accuracy."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from ctm.data.classes import ClassTable
from ctm.stage import Metrics

__all__ = ["LabelScore"]


class LabelScore:
    """Collects a classifier's logits over a split and scores them.

    All logits are kept (N × C numbers), because average precision is exact only on the whole ranking.
    """

    def __init__(self, classes: ClassTable) -> None:
        self._names = classes.token_names
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: logits (B, C) and whether each class is present (B, C)."""
        self._logits.append(logits.detach().double().cpu())
        self._labels.append(labels.bool().cpu())

    def compute(self) -> Metrics:
        """Scores of all batches added so far.

        Returns:
            ``map``: mean average precision over the classes with a positive image; ``chance_map``: what a random
            ranking gets, the mean share of positive images of the same classes; ``accuracy``: share of (image, class)
            pairs with (probability > 0.5) == label, the paper's classifier accuracy; ``classes``: the average precision
            of each class. All 0..1; None where there is no image to say it.
        """
        empty = torch.empty(0, len(self._names))
        # Double precision keeps confident logits apart: a float32 sigmoid makes ties of everything above 17.
        probabilities = torch.cat([empty.double(), *self._logits]).sigmoid()
        labels = torch.cat([empty.bool(), *self._labels])
        precision: dict[str, float | None] = {
            name: float(binary_average_precision(probabilities[:, c], labels[:, c].int()))
            if labels[:, c].any()
            else None
            for c, name in enumerate(self._names)
        }
        known = [value for value in precision.values() if value is not None]
        frequency = labels.double().mean(dim=0)[labels.any(dim=0)]
        return {
            "map": sum(known) / len(known) if known else None,
            "chance_map": float(frequency.mean()) if known else None,
            "accuracy": float(((probabilities > 0.5) == labels).double().mean()) if len(labels) else None,
            "classes": precision,
        }
