"""Pseudo-masks made in other ways from the same checkpoint, and the baselines that any of them must beat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.shards import Split
from ctm.evaluation.baselines import SpectralClassifier, random_mask
from ctm.evaluation.recipes import BASELINES, parse_recipe
from ctm.evaluation.scoring import Mask
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.assign import mask_values
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.extract import extract_pseudomasks
from ctm.runtime.progress import track

__all__ = ["compared_masks", "recipe_config"]


def recipe_config(entry: str, config: ExtractConfig) -> ExtractConfig:
    """The extraction parameters ``config`` with strategy, assignment and refinement of a recipe."""
    recipe = parse_recipe(entry, config.blocks)
    return config.model_copy(update=recipe.model_dump())


def compared_masks(
    entry: str,
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    *,
    classes: ClassTable,
    config: ExtractConfig,
    seed: int,
    device: torch.device,
    workers: int,
) -> Iterator[Mask]:
    """Masks of every sample of ``split`` by one entry of ``evaluate.compare``.

    Recipes take what they do not say (label source, fill) from ``config``. The baselines know the image-level labels,
    and that a background without class token can be anywhere.
    """
    if entry not in BASELINES:
        found = extract_pseudomasks(
            model,
            split,
            inputs,
            classes=classes,
            config=recipe_config(entry, config),
            device=device,
            workers=workers,
            description=f"compare {entry}",
        )
        yield from ((mask.index, mask.mask) for mask in found)
        return
    present = split.labels
    if classes.background is not None:
        present = np.column_stack([present, np.ones(len(split), dtype=bool)])
    spectral = None
    if entry == "spectral":
        samples = ((_scaled(split, i), torch.from_numpy(present[i])) for i in range(len(split)))
        spectral = SpectralClassifier.fit(samples, seed=seed)
    for index in track(range(len(split)), description=f"compare {entry}", total=len(split)):
        labels = present[index]
        if spectral is not None:
            tokens = spectral.predict(_scaled(split, index), torch.from_numpy(labels))
        else:
            height, width = split.sizes[index].tolist()
            tokens = random_mask(labels, (height, width), np.random.default_rng([seed, index]))
        yield index, mask_values(tokens, classes)


def _scaled(split: Split, index: int) -> torch.Tensor:
    """A stored image as float32, (Ch, H, W). Its scale does not matter to the baseline, which standardises."""
    return torch.from_numpy(split.image(index).astype(np.float32))
