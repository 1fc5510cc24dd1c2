"""Pseudo-masks made in other ways from the same checkpoint, and the baselines that any of them must beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.shards import Split
from ctm.evaluation.baselines import SpectralClassifier, random_mask
from ctm.evaluation.config import BASELINES
from ctm.evaluation.scoring import Mask
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.assign import mask_values
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.recipes import recipe_config
from ctm.pseudomasks.samples import masks_of
from ctm.runtime.progress import track

__all__ = ["compared_masks", "random_masks"]


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

    Recipes take what they do not say (label source, fill, blocks, scales, mirroring) from ``config``. The baselines
    know the image-level labels, and that a background without class token can be anywhere.
    """
    if entry not in BASELINES:
        found = masks_of(
            range(len(split)),
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
    if entry == "random":
        samples = track(range(len(split)), description=f"compare {entry}", total=len(split))
        yield from random_masks(samples, split, classes=classes, seed=seed)
        return
    present = _present(split, classes)
    fitted = ((_scaled(split, i), torch.from_numpy(present[i])) for i in range(len(split)))
    spectral = SpectralClassifier.fit(fitted, seed=seed)
    for index in track(range(len(split)), description=f"compare {entry}", total=len(split)):
        tokens = spectral.predict(_scaled(split, index), torch.from_numpy(present[index]))
        yield index, mask_values(tokens, classes, range(len(classes.tokens)))


def random_masks(indices: Iterable[int], split: Split, *, classes: ClassTable, seed: int) -> Iterator[Mask]:
    """Masks of some samples with a random class at each pixel, of those that are present."""
    present = _present(split, classes)
    for index in indices:
        height, width = split.sizes[index].tolist()
        tokens = random_mask(present[index], (height, width), np.random.default_rng([seed, index]))
        yield index, mask_values(tokens, classes, range(len(classes.tokens)))


def _present(split: Split, classes: ClassTable) -> NDArray[np.bool_]:
    """Which classes each sample may show, (N, C), with the background as one more that is always possible."""
    if classes.background is None:
        return split.labels
    return np.column_stack([split.labels, np.ones(len(split), dtype=bool)])


def _scaled(split: Split, index: int) -> torch.Tensor:
    """A stored image as float32, (Ch, H, W). Its scale does not matter to the baseline, which standardises."""
    return torch.from_numpy(split.image(index).astype(np.float32))
