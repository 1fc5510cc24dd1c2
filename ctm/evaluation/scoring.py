"""Scores of a whole split, streamed: classifier, masks, segmenter."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset, make_loader
from ctm.data.shards import TRUTH, Split
from ctm.evaluation.labels import LabelScore
from ctm.evaluation.masks import MaskScore
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.native_mask import native_mask
from ctm.runtime.progress import track
from ctm.stage import Metrics

__all__ = ["Mask", "count_masks", "score_classifier", "score_lists", "score_masks", "segment"]

Mask = tuple[int, NDArray[np.uint8]]
"""Index of a sample in its split, and a mask (H, W) of the size of its stored image."""


@torch.inference_mode()
def score_classifier(
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    *,
    classes: ClassTable,
    device: torch.device,
    batch_size: int,
    workers: int,
) -> Metrics:
    """Mean average precision, multi-label accuracy and per-class precision of a classifier; see ``LabelScore``."""
    model = model.to(device).eval()
    score = LabelScore(classes)
    loader = make_loader(ShardDataset(split, inputs), batch_size=batch_size, shuffle=False, seed=0, workers=workers)
    for batch in track(loader, description=f"classifier on {split.name}", unit="batch"):
        score.update(model(batch["image"].to(device)).float(), batch["labels"])
    return score.compute()


def count_masks(masks: Iterable[Mask], split: Split, *, classes: ClassTable) -> MaskScore:
    """Holds masks against the truth of their samples; samples without truth are passed over."""
    score = MaskScore(classes)
    for index, mask in masks:
        if split.has(index, TRUTH):
            score.update(mask, split.mask(index, TRUTH))
    return score


def score_masks(masks: Iterable[Mask], split: Split, *, classes: ClassTable) -> Metrics:
    """Scores of masks against the truth of their samples: see ``MaskScore``."""
    return count_masks(masks, split, classes=classes).compute()


def score_lists(
    masks: Iterable[Mask], split: Split, *, classes: ClassTable, tune: Collection[str]
) -> dict[str, Metrics]:
    """Scores of masks of a split, and, where it holds samples of a tune list, of these and of the others.

    Args:
        masks: of samples of ``split``.
        split: the samples; those without truth are passed over.
        classes: what the mask values mean.
        tune: keys by whose masks settings were chosen (``ShardFolder.tune``).

    Returns:
        Scores by the split's name, and, if any sample is in ``tune``, by ``tune`` and ``score``, the rest.
    """
    counts = {name: MaskScore(classes) for name in ("tune", "score")}
    for index, mask in masks:
        if split.has(index, TRUTH):
            counts["tune" if split.keys[index] in tune else "score"].update(mask, split.mask(index, TRUTH))
    whole = MaskScore(classes)
    whole.matrix += counts["tune"].matrix + counts["score"].matrix
    lists = counts if any(key in tune for key in split.keys) else {}
    return {name: count.compute() for name, count in {split.name: whole, **lists}.items()}


@torch.inference_mode()
def segment(
    model: nn.Module,
    split: Split,
    inputs: InputSpec,
    *,
    samples: Sequence[int] | None = None,
    device: torch.device,
    batch_size: int,
    workers: int,
) -> Iterator[Mask]:
    """The segmenter's mask of every sample: logits resized to the stored image's size, then the largest.

    Args:
        model: maps images to logits (B, K, H, W).
        split: the images.
        inputs: what the model takes.
        samples: which of them, by their position; None for all.
        device: where the model runs.
        batch_size: images in one forward pass.
        workers: processes that decode images.
    """
    model = model.to(device).eval()
    dataset = ShardDataset(split, inputs, samples=samples)
    loader = make_loader(dataset, batch_size=batch_size, shuffle=False, seed=0, workers=workers)
    for batch in track(loader, description=f"segmenter on {split.name}", unit="batch"):
        logits = model(batch["image"].to(device)).float()  # (B, K, H, W)
        for row, (index, size) in enumerate(zip(batch["index"].tolist(), batch["size"].tolist(), strict=True)):
            yield index, native_mask(logits[row], (size[0], size[1]))
