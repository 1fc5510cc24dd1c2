"""Class maps from a sequence that holds the class tokens of an image's candidates alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.maps import ClassMaps, class_maps

__all__ = ["Batch", "candidate_maps", "equal_counts", "windows"]

Batch = dict[str, Any]
"""A batch of ``ShardDataset``."""


def candidate_maps(model: ClassTokenViT, images: Tensor, candidates: Tensor, config: MapConfig) -> ClassMaps:
    """Reads the maps of a batch as ``class_maps`` does, without the tokens of classes that are no candidates.

    The sequence is K + P + 1 tokens long instead of C + P + 1; see ``ClassTokenViT.restricted_to``. That is another
    network than the one that was trained: patches and candidates attend to fewer tokens, and relevance sums fewer rows.

    Args:
        model: gated or pruned classifier in evaluation mode.
        images: (B, channels, H, W), normalised, not made in inference mode.
        candidates: (B, C) bool, the same number K of them in each image.
        config: see ``class_maps``.

    Returns:
        The maps; the logits are NaN for classes that are no candidates. Without any candidate nothing runs, and the
        maps are zeros on the grid of the images.

    Raises:
        ModelError: the strategy reads a patch head that the model does not have.
    """
    batch, classes = candidates.shape
    chosen = candidates.nonzero()[:, 1].view(batch, -1)  # (B, K), ascending
    logits = images.new_full((batch, classes), torch.nan)
    if not chosen.numel():
        return ClassMaps(images.new_zeros(batch, classes, *model.grid_of(images)), logits, candidates)
    found = class_maps(model.restricted_to(chosen), images, torch.ones_like(chosen, dtype=torch.bool), config)
    maps = found.maps.new_zeros(batch, classes, *found.maps.shape[2:])
    maps[candidates] = found.maps.flatten(0, 1)
    logits[candidates] = found.logits.flatten()
    return ClassMaps(maps, logits, candidates)


def windows(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Joins ``count`` batches at a time to one; the last may be of fewer."""
    remaining = iter(batches)
    while joined := list(islice(remaining, count)):
        yield {name: torch.cat([batch[name] for batch in joined]) for name in joined[0]}


def equal_counts(window: Batch, *, batch_size: int) -> Iterator[Batch]:
    """Parts a window into batches whose images have equally many labels, so that none needs padding."""
    counts = window["labels"].sum(dim=1)
    for count in counts.unique():
        for rows in (counts == count).nonzero().flatten().split(batch_size):
            yield {name: values[rows] for name, values in window.items()}
