"""Every way to make pseudo-masks from one classifier, side by side: scores, times and pictures."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import ctm
from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.shards import TRUTH, ShardFolder, Split
from ctm.errors import ModelError, ParamsError
from ctm.evaluation.compare import random_masks
from ctm.evaluation.figures import class_colours, swatches
from ctm.evaluation.masks import MaskScore
from ctm.evaluation.scoring import score_masks
from ctm.evaluation.sheet import Sheet, make_sheet, sheet_legend, sheet_pictures
from ctm.evaluation.style import render
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.quality import Regions, best_recipe, label_free_scores
from ctm.pseudomasks.ranking import has_learned, not_learned, rank
from ctm.pseudomasks.recipes import canonical_recipe, needs_patch_head, recipe_config, without_patch_head
from ctm.pseudomasks.samples import masks_of, spread
from ctm.stage import Metrics

__all__ = ["Strategies", "compare_strategies", "pick_samples", "strategies_page"]

SCORES = ("miou", "pixel_accuracy", "coverage")
"""What is read against the truth; None where there is none."""
LABEL_FREE = ("score", "consistency", "separation", "agreement")
"""What is read without it."""

TIME = "seconds_per_image"

RANDOM = "random"
"""Name of the row that says what guessing gets."""


@dataclass(frozen=True)
class Strategies:
    """What a comparison found.

    Attributes:
        images: how many were looked at.
        recipes: scores and seconds per image of each recipe, and of random masks where there is truth.
        classifier: mean average precision on the images by their image-level labels, and what chance gets.
        best: the recipe with the best label-free score.
        sheet: the masks of some of the images.
    """

    images: int
    recipes: dict[str, Metrics]
    classifier: Metrics
    best: str
    sheet: Sheet

    @property
    def metrics(self) -> Metrics:
        """The figures as JSON values."""
        return {
            "images": self.images,
            "classifier": self.classifier,
            "best_label_free": self.best,
            "recipes": self.recipes,
        }


@dataclass(frozen=True)
class _Tried:
    """One recipe: its scores against the truth and those of the classifier, its masks, and the time that they took."""

    scores: Metrics
    classifier: Metrics
    regions: Sequence[Regions]
    shown: Mapping[int, NDArray[np.uint8]]
    seconds: float


def pick_samples(data: ShardFolder, name: str, count: int) -> tuple[Split, list[int]]:
    """A split and ``count`` evenly spread samples of it; ``tune`` names the train samples of the tune list.

    Raises:
        ParamsError: there is no such split, or no sample in it.
    """
    splits = [*data.splits, *(["tune"] if data.tune else [])]
    if name not in splits:
        raise ParamsError(f"--split {name}: there is no such split in {data.path}; splits: {', '.join(splits)}.")
    split = data.split("train" if name == "tune" else name)
    among = data.tune_samples if name == "tune" else list(range(len(split)))
    if not among:
        raise ParamsError(f"--split {name}: it has no sample; choose another of {', '.join(splits)}.")
    return split, [among[place] for place in spread(len(among), count)]


def compare_strategies(
    recipes: Sequence[str],
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    *,
    classes: ClassTable,
    config: ExtractConfig,
    indices: Sequence[int],
    panels: int,
    seed: int,
    device: torch.device,
) -> Strategies:
    """Makes the masks of some images by every recipe and scores them, with truth where there is any.

    Args:
        recipes: what is compared, at least one.
        model: gated or pruned classifier.
        split: the images.
        inputs: what the model takes.
        classes: what the mask values mean.
        config: the extraction; a recipe replaces strategy, assignment and refinement.
        indices: samples that are looked at, ascending, at least one.
        panels: how many of these are shown.
        seed: of the random masks.
        device: where the model runs.

    Raises:
        ParamsError: a recipe cannot be read.
        ModelError: a recipe needs a patch head that the model does not have.
    """
    recipes = _possible(recipes, model)
    shown = [indices[place] for place in spread(len(indices), panels)]
    work: dict[str, Any] = {"model": model, "split": split, "inputs": inputs, "classes": classes, "device": device}
    tried = {recipe: _try(recipe, indices, shown, config=config, **work) for recipe in recipes}
    regions = {recipe: one.regions for recipe, one in tried.items()}
    label_free = label_free_scores(regions, indices, batch_size=config.batch_size, **work)
    rows: dict[str, Metrics] = {}
    if any(split.has(index, TRUTH) for index in indices):
        guessed = score_masks(random_masks(indices, split, classes=classes, seed=seed), split, classes=classes)
        rows[RANDOM] = {**{name: guessed[name] for name in SCORES}, **dict.fromkeys((*LABEL_FREE, TIME))}
    for recipe, one in tried.items():
        rows[recipe] = {**one.scores, **label_free[recipe], TIME: one.seconds / len(indices)}
    best = best_recipe(label_free)
    masks = {recipe: one.shown for recipe, one in tried.items()}
    return Strategies(
        images=len(indices),
        recipes=rows,
        classifier=tried[recipes[0]].classifier,
        best=best,
        sheet=make_sheet(split, shown, masks, classes=classes, marked=best),
    )


def strategies_page(
    found: Strategies, *, dataset: str, split: str, classes: ClassTable, config: ExtractConfig, seed: int
) -> str:
    """One HTML page that holds everything it shows.

    Args:
        found: what is shown.
        dataset: name of the data set.
        split: name of the split that the images are from.
        classes: what the mask values mean.
        config: the extraction, whose settings the recipes share.
        seed: of the random masks.
    """
    return render(
        "strategies.html.j2",
        title=f"Strategies compared: {dataset}",
        dataset=dataset,
        found=found,
        split=split,
        scored=RANDOM in found.recipes,
        label_source=config.label_source,
        notes=_notes(found, split),
        swatches=swatches(classes),
        legend=sheet_legend(found.sheet, classes),
        pictures=sheet_pictures(found.sheet, class_colours(classes)),
        provenance={"ctm": ctm.__version__, "seed": seed, **_shared(config)},
    )


def _possible(recipes: Sequence[str], model: ClassTokenViT) -> list[str]:
    """The recipes in their canonical form, each once; an error if the model cannot do one."""
    found = list(dict.fromkeys(map(canonical_recipe, recipes)))
    if not model.config.patch_head and (wanting := [recipe for recipe in found if needs_patch_head(recipe)]):
        raise ModelError(without_patch_head(wanting))
    return found


def _shared(config: ExtractConfig) -> dict[str, str]:
    """The settings that all recipes share, in words."""
    return {
        "blocks": "all" if config.blocks is None else f"last {config.blocks}",
        "rows": config.rows,
        "scales": ", ".join(f"{scale:g}" for scale in config.scales),
        "mirrored too": "yes" if config.flip else "no",
        "fill": config.fill,
        "images a batch": str(config.batch_size),
    }


def _notes(found: Strategies, split: str) -> list[str]:
    """What a reader must know before any figure."""
    value, chance = found.classifier["map"], found.classifier["chance_map"]
    notes = [] if has_learned(value, chance) else [not_learned(split, value, chance)]
    if all(scores["consistency"] is None for name, scores in found.recipes.items() if name != RANDOM):
        notes.append(
            "No image has two classes that could be painted: consistency says nothing here, and the label-free score "
            "does without it."
        )
    return notes


def _try(
    recipe: str,
    indices: Sequence[int],
    shown: Container[int],
    *,
    config: ExtractConfig,
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    classes: ClassTable,
    device: torch.device,
) -> _Tried:
    """Makes the masks of a recipe; only the making is timed, and not what the first mask alone costs."""
    settings: dict[str, Any] = {"classes": classes, "config": recipe_config(recipe, config), "device": device}
    list(masks_of(indices[:1], model, split, inputs, **settings))
    score, regions, kept, logits, seconds = MaskScore(classes), [], {}, [], 0.0
    start = perf_counter()
    for found in masks_of(indices, model, split, inputs, **settings, description=f"compare {recipe}"):
        seconds += perf_counter() - start
        regions.append(Regions.of(found, inputs))
        logits.append(found.logits)
        if split.has(found.index, TRUTH):
            score.update(found.mask, split.mask(found.index, TRUTH))
        if found.index in shown:
            kept[found.index] = found.mask
        start = perf_counter()
    scores, ranking = score.compute(), rank(np.stack(logits), split.labels[list(indices)])
    return _Tried(
        scores={name: scores[name] for name in SCORES},
        classifier={"map": ranking.map, "chance_map": ranking.chance},
        regions=regions,
        shown=kept,
        seconds=seconds,
    )
