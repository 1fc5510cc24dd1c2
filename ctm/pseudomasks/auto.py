"""The strategy ``auto``: the recipe whose masks score best without any truth."""

from __future__ import annotations

import logging
from typing import Any

import torch

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.shards import Split
from ctm.errors import ModelError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.quality import Regions, best_recipe, label_free_scores
from ctm.pseudomasks.recipes import needs_patch_head, recipe_config, without_patch_head
from ctm.pseudomasks.samples import masks_of, spread
from ctm.stage import Metrics

__all__ = ["choose"]

logger = logging.getLogger(__name__)


def choose(
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    *,
    classes: ClassTable,
    config: ExtractConfig,
    device: torch.device,
    workers: int = 0,
) -> tuple[str, dict[str, Metrics]]:
    """Chooses among the recipes of ``config.auto`` by their label-free scores; of equals the first.

    Args:
        model: gated or pruned classifier.
        split: the whole train split, even where only a part of it is extracted, so that all parts choose alike.
        inputs: what the model takes.
        classes: what the mask values mean.
        config: the extraction; ``auto_images`` evenly spread samples are looked at.
        device: where the model runs.
        workers: processes that decode images.

    Returns:
        The chosen recipe, and the scores of each that was tried: see ``label_free_scores``.

    Raises:
        ModelError: every recipe needs a patch head, and the model has none.
    """
    indices = spread(len(split), config.auto_images)
    work: dict[str, Any] = {"model": model, "split": split, "inputs": inputs, "classes": classes, "device": device}
    regions: dict[str, list[Regions]] = {}
    for recipe in _possible(config, model):
        wanted, about = recipe_config(recipe, config), f"auto: {recipe}"
        masks = masks_of(indices, config=wanted, workers=workers, description=about, **work)
        regions[recipe] = [Regions.of(found, inputs) for found in masks]
    scores = label_free_scores(regions, indices, batch_size=config.batch_size, **work)
    recipe = best_recipe(scores)
    logger.info("auto chooses %s by %d images without truth: %s", recipe, len(indices), _listed(scores))
    return recipe, scores


def _possible(config: ExtractConfig, model: ClassTokenViT) -> list[str]:
    """The recipes that the model can do, each once."""
    recipes = list(dict.fromkeys(config.auto))
    if model.config.patch_head:
        return recipes
    possible = [recipe for recipe in recipes if not needs_patch_head(recipe)]
    if skipped := [recipe for recipe in recipes if recipe not in possible]:
        logger.info("auto leaves out %s: the classifier has no patch head (model.patch_head)", ", ".join(skipped))
    if not possible:
        raise ModelError(f"extract_pseudomasks.auto: {without_patch_head(recipes)}")
    return possible


def _listed(scores: dict[str, Metrics]) -> str:
    """The scores in words."""
    known = {recipe: found["score"] for recipe, found in scores.items()}
    return ", ".join(f"{recipe} {'–' if score is None else f'{score:.3f}'}" for recipe, score in known.items())
