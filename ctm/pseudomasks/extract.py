"""Pseudo-masks of a whole split, batch by batch: maps, refinement, assignment, mask values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset, make_loader
from ctm.data.shards import Split
from ctm.errors import ParamsError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.assign import assign, confident_argmax, mask_values
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.maps import class_maps
from ctm.pseudomasks.pamr import refine_pixels
from ctm.runtime.progress import track

__all__ = ["PseudoMask", "check_fill", "extract_pseudomasks"]


@dataclass(frozen=True)
class PseudoMask:
    """The pseudo-mask of one sample, at the size of its stored image.

    Attributes:
        index: of the sample in its split.
        mask: (H, W) mask values, 255 where undecided.
        maps: (C, h0, w0) class maps before PAMR; zero for classes that were no candidates.
        candidates: (C,) the classes that could be painted.
        logits: (C,) of the classifier.
        confidence: (H, W) the winner's share of the candidates' maps, 0..255; None unless the configuration asks for
            it and the rule is argmax: see ``confident_argmax``.
    """

    index: int
    mask: NDArray[np.uint8]
    maps: NDArray[np.float32]
    candidates: NDArray[np.bool_]
    logits: NDArray[np.float32]
    confidence: NDArray[np.uint8] | None


def extract_pseudomasks(
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    *,
    classes: ClassTable,
    config: ExtractConfig,
    device: torch.device,
    samples: Sequence[int] | None = None,
    workers: int = 0,
    description: str = "pseudo-masks",
) -> Iterator[PseudoMask]:
    """Yields the pseudo-mask of every sample of ``split``, or of ``samples``; one batch is in memory at a time.

    Raises:
        ParamsError: the fill rule does not fit the classes, the model has fewer blocks than are to be read, or the
            strategy is still ``auto``.
    """
    check_fill(config, classes)
    if config.strategy == "auto":
        raise ParamsError(
            "extract_pseudomasks.strategy is auto, which names no masks: let ctm.pseudomasks.auto.choose take one of "
            f"its recipes first ({', '.join(config.auto)})."
        )
    depth = len(model.blocks)
    if config.blocks is not None and config.blocks > depth:
        raise ParamsError(
            f"extract_pseudomasks.blocks is {config.blocks}, but the classifier has {depth} blocks: "
            f"choose 1 to {depth}, or null for all."
        )
    model = model.to(device).eval().requires_grad_(False)  # relevance needs no gradient of the weights
    dataset = ShardDataset(split, inputs, samples=samples)
    loader = make_loader(dataset, batch_size=config.batch_size, shuffle=False, seed=0, workers=workers)
    for batch in track(loader, description=description, unit="batch"):
        images = batch["image"].to(device)
        given = batch["labels"].to(device) if config.label_source == "image" else None
        found = class_maps(model, images, given, config, threshold=config.threshold)
        logits, candidates = found.logits.float().cpu(), found.candidates.cpu()
        for row, (index, size) in enumerate(zip(batch["index"].tolist(), batch["size"].tolist(), strict=True)):
            mask, confidence = _decide(
                images[row],
                found.maps[row],
                config,
                probabilities=logits[row].sigmoid(),
                candidates=candidates[row],
                size=(size[0], size[1]),
            )
            yield PseudoMask(
                index=index,
                mask=mask_values(mask, classes),
                maps=found.maps[row].float().cpu().numpy(),
                candidates=candidates[row].numpy(),
                logits=logits[row].numpy(),
                confidence=confidence,
            )


def _decide(
    image: Tensor,
    maps: Tensor,
    config: ExtractConfig,
    *,
    probabilities: Tensor,
    candidates: Tensor,
    size: tuple[int, int],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """The mask of one image in token indices, (H, W), and its confidence where that is asked for."""
    pixelwise = "pamr" in config.refinement.split("+")
    if pixelwise:
        chosen = candidates.to(maps.device)
        refined = refine_pixels(image, maps[chosen])
        maps = refined.new_zeros(len(maps), *refined.shape[1:])
        maps[chosen] = refined
    how: dict[str, Any] = {
        "probabilities": probabilities,
        "candidates": candidates,
        "size": size,
        "fill": config.fill,
        "background": len(candidates) if config.fill == "background" else None,
        "background_threshold": config.background_threshold,
        "normalised": pixelwise,
    }
    maps = maps.cpu()
    if config.confidence and config.assignment == "argmax":
        return confident_argmax(maps, **how)
    return assign(maps, config.assignment, **how), None


def check_fill(config: ExtractConfig, classes: ClassTable) -> None:
    """Checks that the fill rule fits the classes.

    Raises:
        ParamsError: ``background`` without a background class, or ``nearest`` where the background has no token and so
            could never be painted.
    """
    if config.fill == "background" and classes.background is None:
        raise ParamsError(
            "extract_pseudomasks.fill: background needs a class without token: name it in dataset.background, or use "
            "nearest or ignore."
        )
    if config.fill == "nearest" and classes.background is not None:
        raise ParamsError(
            f"extract_pseudomasks.fill: nearest would never paint {classes.names[classes.background]!r}, which has no "
            "class token: use background or ignore."
        )
