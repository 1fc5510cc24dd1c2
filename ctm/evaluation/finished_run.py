"""The artifacts of a finished run, opened and held against each other, and every score of them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ctm.data.classes import ClassTable, check_same_classes
from ctm.data.inputs import InputSpec
from ctm.data.shards import ShardFolder
from ctm.evaluation.compare import compared_masks
from ctm.evaluation.config import EvaluateConfig
from ctm.evaluation.scoring import Mask, count_masks, score_classifier, score_lists, score_masks, segment
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.io import load_classifier
from ctm.models.segmenter import Supervision, load_segmenter, read_supervision
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.parts import CHOSEN, TOKENS, check_settings
from ctm.pseudomasks.recipes import recipe_config
from ctm.pseudomasks.samples import spread
from ctm.stage import Metrics

__all__ = ["FinishedRun", "Scores", "open_run", "score_run"]

BRIEF = ("miou", "pixel_accuracy", "coverage")
"""Scores of what the pseudo-masks are compared with."""


@dataclass(frozen=True)
class FinishedRun:
    """What the stages before the evaluation have written, of the same classes.

    Attributes:
        data: the images.
        pseudomasks: their pseudo-masks.
        extraction: how these were made; of strategy auto with the recipe that was chosen.
        gated: the classifier with its gates.
        pruned: the classifier without its closed heads.
        inputs: what both classifiers take.
        segmenter: the network.
        segmenter_inputs: what it takes.
        supervision: what it has learned from.
    """

    data: ShardFolder
    pseudomasks: ShardFolder
    extraction: ExtractConfig
    gated: ClassTokenViT
    pruned: ClassTokenViT
    inputs: InputSpec
    segmenter: nn.Module
    segmenter_inputs: InputSpec
    supervision: Supervision

    @property
    def classes(self) -> ClassTable:
        """What the mask values mean."""
        return self.data.classes


@dataclass(frozen=True)
class Scores:
    """What the evaluation finds.

    Attributes:
        metrics: all figures, as they are written.
        confusion: pixels of val by true and predicted class of the segmenter, (K, K).
        predictions: the segmenter's masks of the val samples that are to be shown, by index.
    """

    metrics: Metrics
    confusion: NDArray[np.int64]
    predictions: dict[int, NDArray[np.uint8]]


def open_run(
    extraction: ExtractConfig, *, shards: Path, classifier: Path, pruned: Path, pseudomasks: Path, segmenter: Path
) -> FinishedRun:
    """Opens the artifacts of a run.

    Raises:
        ArtifactError: one is damaged, was made for other classes, or the pseudo-masks with other settings.
    """
    data, pseudo = ShardFolder.open(shards, kind="images"), ShardFolder.open(pseudomasks, kind="masks")
    if pseudo.index.about:
        check_settings(pseudo, extraction.model_dump(mode="json"))
    chosen = pseudo.index.about.get(CHOSEN)
    gated, classes, inputs = load_classifier(classifier)
    small, pruned_classes, _ = load_classifier(pruned)
    network, segmenter_classes, segmenter_inputs = load_segmenter(segmenter)
    check_same_classes(
        shards=data.classes,
        classifier=classes,
        pruned=pruned_classes,
        pseudomasks=pseudo.classes,
        segmenter=segmenter_classes,
    )
    return FinishedRun(
        data,
        pseudo,
        recipe_config(chosen["recipe"], extraction) if chosen else extraction,
        gated,
        small,
        inputs,
        network,
        segmenter_inputs,
        read_supervision(segmenter),
    )


def score_run(run: FinishedRun, config: EvaluateConfig, *, seed: int, device: torch.device, workers: int) -> Scores:
    """Scores classifier, heads, pseudo-masks, what these are compared with, and the segmenter.

    Args:
        run: what is scored.
        config: what is compared, how many predictions are kept, and how many images are scored together.
        seed: of the baselines.
        device: where the models run.
        workers: processes that decode images.
    """
    work: dict[str, Any] = {"device": device, "workers": workers}
    batches = {**work, "batch_size": config.batch_size}
    val = run.data.split("val")
    predictions: dict[int, NDArray[np.uint8]] = {}
    masks = segment(run.segmenter, val, run.segmenter_inputs, **batches)
    segmented = count_masks(_keep(masks, spread(len(val), config.panels), kept=predictions), val, classes=run.classes)
    metrics: Metrics = {
        "classifier": {"val": score_classifier(run.gated, val, run.inputs, classes=run.classes, **batches)},
        "heads": _heads(run.pruned),
        "pseudomasks": {
            name: scores for split in run.pseudomasks.splits for name, scores in _score_pseudomasks(run, split).items()
        },
        "segmenter": {"val": segmented.compute(), "supervision": run.supervision, **_score_tune(run, **batches)},
        **{name: about for name, about in run.pseudomasks.index.about.items() if name in (CHOSEN, TOKENS)},
    }
    if "train" in run.pseudomasks.splits:
        for entry in config.compare:
            for name, scores in _compare(entry, run, metrics["pseudomasks"], seed=seed, **work).items():
                metrics["pseudomasks"][name].setdefault("compare", {})[entry] = scores
    # A segmenter decides on every pixel: the last column is empty.
    return Scores(metrics, segmented.matrix[:, :-1], predictions)


def _keep(masks: Iterable[Mask], wanted: Container[int], *, kept: dict[int, NDArray[np.uint8]]) -> Iterator[Mask]:
    """Passes masks on and keeps the wanted ones for the report."""
    for index, mask in masks:
        if index in wanted:
            kept[index] = mask
        yield index, mask


def _heads(pruned: ClassTokenViT) -> Metrics:
    kept, total = sum(map(len, pruned.kept_heads)), pruned.original_heads * len(pruned.kept_heads)
    return {"sparsity": 1 - kept / total, "kept": kept, "total": total}


def _score_pseudomasks(run: FinishedRun, name: str) -> dict[str, Metrics]:
    """Scores of the written pseudo-masks of a split and its lists, and how many samples had no candidate class."""
    masks, images = run.pseudomasks.split(name), run.data.split(name)
    found = ((images.index_of(key), masks.mask(index, "png")) for index, key in enumerate(masks.keys))
    scores = score_lists(found, images, classes=run.classes, tune=run.data.tune)
    scores[name]["empty"] = int((~masks.labels.any(axis=1)).sum())
    return scores


def _score_tune(run: FinishedRun, **batches: Any) -> dict[str, Metrics]:
    """Scores of the segmenter on the train images of the tune list, unless it has learned their truth."""
    samples, train = run.data.tune_samples, run.data.split("train")
    if not samples or run.supervision == "truth":
        return {}
    masks = segment(run.segmenter, train, run.segmenter_inputs, samples=samples, **batches)
    return {"tune": score_masks(masks, train, classes=run.classes)}


def _compare(entry: str, run: FinishedRun, own: dict[str, Metrics], *, seed: int, **work: Any) -> dict[str, Metrics]:
    """Scores of the train split's masks made in another way, of all and by list; None without truth to score by."""
    if own["train"]["miou"] is None:
        return {"train": dict.fromkeys(BRIEF)}
    train = run.data.split("train")
    config = run.extraction
    masks = compared_masks(entry, run.pruned, train, run.inputs, classes=run.classes, config=config, seed=seed, **work)
    found = score_lists(masks, train, classes=run.classes, tune=run.data.tune)
    return {name: {figure: scores[figure] for figure in BRIEF} for name, scores in found.items()}
