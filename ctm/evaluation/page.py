"""What the report shows, gathered from the metrics and artifacts of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import ctm
from ctm.data.classes import ClassTable
from ctm.data.display import display_rgb
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset
from ctm.data.shards import TRUTH, ShardFolder, Split
from ctm.evaluation.compare import recipe_config
from ctm.evaluation.recipes import BASELINES
from ctm.evaluation.report import ClassRow, CompareRow, Headline, Panel
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.maps import class_maps
from ctm.stage import Metrics

__all__ = ["choose_samples", "class_rows", "compare_rows", "headlines", "make_panels", "notes", "provenance"]

LEARNED = 0.2
"""Share of the way from chance to a perfect mAP below which a classifier counts as not having learned."""

BASELINE_WORDS = {"random": "none: a random class of those present", "spectral": "none: a classifier of single pixels"}


def choose_samples(split: Split, count: int) -> list[int]:
    """Indices of ``count`` samples, evenly spread over the split."""
    chosen = np.linspace(0, len(split) - 1, min(count, len(split))).round()
    return sorted({int(index) for index in chosen})


def make_panels(
    split: Split,
    indices: Sequence[int],
    *,
    model: ClassTokenViT,
    inputs: InputSpec,
    classes: ClassTable,
    config: ExtractConfig,
    pseudomasks: ShardFolder,
    predictions: Mapping[int, NDArray[np.uint8]],
    device: torch.device,
) -> list[Panel]:
    """Pictures of some samples: image, truth, pseudo-mask, prediction, and the map of each candidate class."""
    if not indices:
        return []
    pseudo = pseudomasks.split(split.name) if split.name in pseudomasks.splits else None
    dataset = ShardDataset(split, inputs)
    images = torch.stack([dataset[i]["image"] for i in indices]).to(device)
    labels = torch.from_numpy(split.labels[list(indices)]).to(device)
    given = labels if config.label_source == "image" else None
    found = class_maps(model.to(device).eval(), images, given, config, threshold=config.threshold)
    names = classes.token_names
    return [
        Panel(
            key=split.keys[i],
            split=split.name,
            image=display_rgb(split.image(i)),
            labels=[names[c] for c in np.flatnonzero(split.labels[i])],
            truth=split.mask(i, TRUTH) if split.has(i, TRUTH) else None,
            pseudo_mask=pseudo.mask(pseudo.index_of(split.keys[i]), "png") if pseudo else None,
            prediction=predictions.get(i),
            maps={
                names[c]: found.maps[row, c].cpu().numpy() for c in found.candidates[row].nonzero().flatten().tolist()
            },
        )
        for row, i in enumerate(indices)
    ]


def headlines(metrics: Metrics) -> list[Headline]:
    """The figures at the top of the page."""
    train = metrics["pseudomasks"].get("train", {})
    val, heads, segmenter = metrics["classifier"]["val"], metrics["heads"], metrics["segmenter"]["val"]
    return [
        Headline(
            "Pseudo-masks, train mIoU", train.get("miou"), "masks made from image-level labels, against the truth"
        ),
        Headline("Segmenter, val mIoU", segmenter["miou"], "on images it has never seen, without any label"),
        Headline("Classifier, val mAP", val["map"], f"a random ranking gets {_three(val['chance_map'])}"),
        Headline("Heads removed", heads["sparsity"], f"{heads['kept']} of {heads['total']} attention heads are left"),
    ]


def compare_rows(metrics: Metrics, config: ExtractConfig) -> list[CompareRow]:
    """The run's own pseudo-masks first, then those of ``evaluate.compare``."""
    train = metrics["pseudomasks"].get("train")
    if train is None:
        return []
    rows = [_compare_row("this run", config, train, chosen=True)]
    for entry, scores in train.get("compare", {}).items():
        recipe = None if entry in BASELINES else recipe_config(entry, config)
        rows.append(_compare_row(entry, recipe, scores))
    return rows


def class_rows(metrics: Metrics, classes: ClassTable) -> list[ClassRow]:
    """IoU and average precision of every class."""
    pseudo = metrics["pseudomasks"].get("train", {}).get("classes", {})
    segmenter, precision = metrics["segmenter"]["val"]["classes"], metrics["classifier"]["val"]["classes"]
    return [ClassRow(name, pseudo.get(name), segmenter.get(name), precision.get(name)) for name in classes.names]


def notes(metrics: Metrics) -> list[str]:
    """What a reader must know before any figure."""
    found = []
    val = metrics["classifier"]["val"]
    if val["map"] is not None and val["map"] - val["chance_map"] < LEARNED * (1 - val["chance_map"]):
        found.append(
            f"The classifier has hardly learned: its val mAP is {val['map']:.3f}, and a random ranking gets "
            f"{val['chance_map']:.3f}. Masks made from it "
            "are no better than chance; train longer, or from pretrained weights."
        )
    if metrics["segmenter"]["val"]["miou"] is None:
        found.append("The val split has no masks to score against: mIoU is not known, only pictures are shown.")
    train = metrics["pseudomasks"].get("train", {"miou": None})
    spectral = train.get("compare", {}).get("spectral", {"miou": None})["miou"]
    if spectral is not None and spectral > train["miou"]:
        found.append(
            f"Single pixels tell these classes apart: a classifier that sees one pixel at a time, trained on the same "
            f"image-level labels, makes masks of mIoU {spectral:.3f}, and this run's have {train['miou']:.3f}."
        )
    empty = {name: scores["empty"] for name, scores in metrics["pseudomasks"].items() if scores["empty"]}
    for name, count in empty.items():
        found.append(f"{count} images of {name} have no candidate class; their pseudo-masks are wholly ignored.")
    return found


def provenance(seed: int, *, models: Iterable[nn.Module]) -> dict[str, str | int]:
    """What made the page; nothing that differs from run to run."""
    classifier, pruned, segmenter = (sum(p.numel() for p in model.parameters()) for model in models)
    return {
        "ctm": ctm.__version__,
        "seed": seed,
        "classifier parameters": classifier,
        "pruned parameters": pruned,
        "segmenter parameters": segmenter,
    }


def _compare_row(
    name: str, config: ExtractConfig | None, scores: Mapping[str, Any], *, chosen: bool = False
) -> CompareRow:
    return CompareRow(
        name=name,
        strategy=config.strategy if config else BASELINE_WORDS[name],
        assignment=config.assignment if config else None,
        refinement=config.refinement if config else None,
        miou=scores["miou"],
        pixel_accuracy=scores["pixel_accuracy"],
        coverage=scores["coverage"],
        chosen=chosen,
    )


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
