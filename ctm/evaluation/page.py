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
from ctm.evaluation.config import BASELINES
from ctm.evaluation.report import ClassRow, CompareRow, Headline, Panel
from ctm.evaluation.sheet import Sheet, make_sheet
from ctm.evaluation.style import value
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.maps import class_maps
from ctm.pseudomasks.parts import CHOSEN, TOKENS
from ctm.pseudomasks.ranking import has_learned, not_learned
from ctm.pseudomasks.recipes import recipe_config, recipe_name
from ctm.pseudomasks.samples import masks_of, spread
from ctm.stage import Metrics

__all__ = [
    "choice_words",
    "class_rows",
    "compare_rows",
    "compare_sheet",
    "headlines",
    "make_panels",
    "notes",
    "provenance",
    "reported",
    "segmenter_saw_truth",
    "views_words",
]

THIS_RUN = "this run"
"""Name of the run's own pseudo-masks."""

BASELINE_WORDS = {"random": "none: a random class of those present", "spectral": "none: a classifier of single pixels"}


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
    train, which = reported(metrics)
    val, heads, segmenter = metrics["classifier"]["val"], metrics["heads"], metrics["segmenter"]["val"]
    learned = (
        "an upper bound: it has learned from true masks"
        if segmenter_saw_truth(metrics)
        else "on images it has never seen, without any label"
    )
    return [
        Headline(
            "Pseudo-masks, train mIoU",
            train.get("miou"),
            f"masks made from image-level labels, against the truth{which}",
        ),
        Headline("Segmenter, val mIoU", segmenter["miou"], learned),
        Headline("Classifier, val mAP", val["map"], f"a random ranking gets {value(val['chance_map'])}"),
        Headline("Heads removed", heads["sparsity"], f"{heads['kept']} of {heads['total']} attention heads are left"),
    ]


def compare_rows(metrics: Metrics, config: ExtractConfig) -> list[CompareRow]:
    """The run's own pseudo-masks first, then those of ``evaluate.compare``."""
    train, _ = reported(metrics)
    if not train:
        return []
    label_free = {recipe: scores["score"] for recipe, scores in metrics.get(CHOSEN, {}).get("scores", {}).items()}
    rows = [_compare_row(THIS_RUN, config, train, label_free=label_free, chosen=True)]
    for entry, scores in train.get("compare", {}).items():
        recipe = None if entry in BASELINES else recipe_config(entry, config)
        rows.append(_compare_row(entry, recipe, scores, label_free=label_free))
    return rows


def choice_words(metrics: Metrics) -> str | None:
    """What was decided before the masks were made: auto's recipe, and the tokens; None where the parameters say all."""
    words = []
    if CHOSEN in metrics:
        chosen = metrics[CHOSEN]["recipe"]
        words.append(f"The strategy auto chose {chosen} by the label-free score, which sees no true mask.")
    if (tokens := metrics.get(TOKENS, {}).get("train")) and tokens["used"] == "candidates":
        words.append("This run's own masks come from the tokens of each image's labels alone, others from all.")
    return " ".join(words) or None


def compare_sheet(
    entries: Sequence[str],
    data: ShardFolder,
    *,
    panels: int,
    model: ClassTokenViT,
    inputs: InputSpec,
    classes: ClassTable,
    config: ExtractConfig,
    pseudomasks: ShardFolder,
    device: torch.device,
) -> Sheet | None:
    """The run's own masks of some train samples, and those of the recipes of ``evaluate.compare``, in pictures.

    Returns:
        None where there is nothing to compare: no sample, no recipe, or no pseudo-mask of train.
    """
    recipes = [entry for entry in entries if entry not in BASELINES]
    if not (panels and recipes and "train" in pseudomasks.splits):
        return None
    split, own = data.split("train"), pseudomasks.split("train")
    indices = spread(len(split), panels)
    masks = {THIS_RUN: {index: own.mask(own.index_of(split.keys[index]), "png") for index in indices}}
    for recipe in recipes:
        found = masks_of(
            indices, model, split, inputs, classes=classes, config=recipe_config(recipe, config), device=device
        )
        masks[recipe] = {one.index: one.mask for one in found}
    return make_sheet(split, indices, masks, classes=classes, marked=THIS_RUN)


def class_rows(metrics: Metrics, classes: ClassTable) -> list[ClassRow]:
    """IoU and average precision of every class."""
    pseudo = reported(metrics)[0].get("classes", {})
    segmenter, precision = metrics["segmenter"]["val"]["classes"], metrics["classifier"]["val"]["classes"]
    return [ClassRow(name, pseudo.get(name), segmenter.get(name), precision.get(name)) for name in classes.names]


def notes(metrics: Metrics) -> list[str]:
    """What a reader must know before any figure."""
    found = []
    if segmenter_saw_truth(metrics):
        found.append(
            "The segmenter of this run has seen true masks: it was trained on those of the train split "
            "(train_segmenter.supervision: truth). Its scores are the fully supervised upper bound for the same "
            "network, and no result of learning from image-level labels."
        )
    val = metrics["classifier"]["val"]
    if not has_learned(val["map"], val["chance_map"]):
        found.append(not_learned("val", val["map"], val["chance_map"]))
    if metrics["segmenter"]["val"]["miou"] is None:
        found.append("The val split has no masks to score against: mIoU is not known, only pictures are shown.")
    train, _ = reported(metrics)
    spectral = train.get("compare", {}).get("spectral", {"miou": None})["miou"]
    if spectral is not None and spectral > train["miou"]:
        found.append(
            f"Single pixels tell these classes apart: a classifier that sees one pixel at a time, trained on the same "
            f"image-level labels, makes masks of mIoU {spectral:.3f}, and this run's have {train['miou']:.3f}."
        )
    empty = {name: scores["empty"] for name, scores in metrics["pseudomasks"].items() if scores.get("empty")}
    for name, count in empty.items():
        found.append(f"{count} images of {name} have no candidate class; their pseudo-masks are wholly ignored.")
    return found


def reported(metrics: Metrics) -> tuple[Metrics, str]:
    """The scores of train pseudo-masks to report, and words for what they leave out.

    Where a tune list exists these are the scores of the other images; empty where train has no pseudo-masks.
    """
    masks = metrics["pseudomasks"]
    if "score" in masks:
        return masks["score"], " of the images that no setting was chosen by"
    return masks.get("train", {}), ""


def views_words(config: ExtractConfig) -> str:
    """The sizes at which class maps are read, as fractions of the classifier's image size."""
    return f"scales {', '.join(f'{scale:g}' for scale in config.scales)}{', mirrored too' if config.flip else ''}"


def segmenter_saw_truth(metrics: Metrics) -> bool:
    """Whether the segmenter is the fully supervised upper bound."""
    return bool(metrics["segmenter"].get("supervision") == "truth")


def provenance(seed: int, *, models: Iterable[nn.Module]) -> dict[str, str | int]:
    """What made the page; nothing that differs from run to run."""
    parameters = (value(sum(p.numel() for p in model.parameters())) for model in models)
    names = ("classifier parameters", "pruned parameters", "segmenter parameters")
    return {"ctm": ctm.__version__, "seed": seed, **dict(zip(names, parameters, strict=True))}


def _compare_row(
    name: str,
    config: ExtractConfig | None,
    scores: Mapping[str, Any],
    *,
    label_free: Mapping[str, float | None],
    chosen: bool = False,
) -> CompareRow:
    return CompareRow(
        name=name,
        strategy=config.strategy if config else BASELINE_WORDS[name],
        assignment=config.assignment if config else None,
        refinement=config.refinement if config else None,
        miou=scores["miou"],
        pixel_accuracy=scores["pixel_accuracy"],
        coverage=scores["coverage"],
        label_free=label_free.get(recipe_name(config)) if config else None,
        chosen=chosen,
    )
