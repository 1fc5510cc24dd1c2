"""What the classifier says of every image of a split, batch by batch; its masks are still to be decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset, make_loader
from ctm.data.shards import Split
from ctm.errors import ParamsError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.candidate_tokens import Batch, candidate_maps, equal_counts, windows
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.maps import class_maps
from ctm.pseudomasks.pamr import refine_pixels
from ctm.runtime.progress import track

__all__ = ["Reading", "read_split", "together"]

WINDOW = 8
"""Batches that are in memory at a time with the candidates' tokens alone, where images of equal number go together."""


PIXEL_REFINEMENTS = {"pamr": refine_pixels}
"""By the word of ``MapConfig.refinement``, of which it has at most one: image (Ch, H, W) and maps (K, h, w) to maps of
the image's size."""


@dataclass(frozen=True)
class Reading:
    """What the classifier says of one image, on the CPU.

    Attributes:
        index: of the sample in its split.
        size: height and width of the stored image.
        maps: (C, h0, w0) class maps before they are refined at the pixels; zero for classes that are no candidates.
        refined: (K, H, W) the candidates' maps refined at the pixels, in the order of the classes; None without that.
        candidates: (C,) bool.
        logits: (C,); NaN with ``tokens: candidates`` where a class is none.
    """

    index: int
    size: tuple[int, int]
    maps: Tensor
    refined: Tensor | None
    candidates: Tensor
    logits: Tensor


def read_split(
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    *,
    config: ExtractConfig,
    device: torch.device,
    samples: Sequence[int] | None = None,
    workers: int = 0,
    description: str = "pseudo-masks",
) -> Iterator[Reading]:
    """Reads every sample of ``split``, or ``samples``, in order.

    One batch is in memory at a time, or ``WINDOW`` with ``tokens: candidates``, where images with equally many
    candidates are read together.

    Raises:
        ParamsError: the model has fewer blocks than are to be read, or the strategy is still ``auto``.
    """
    _check(config, depth=len(model.blocks))
    model = model.to(device).eval().requires_grad_(False)  # relevance needs no gradient of the weights
    dataset = ShardDataset(split, inputs, samples=samples)
    loader = make_loader(dataset, batch_size=config.batch_size, shuffle=False, seed=0, workers=workers)
    batches = track(loader, description=description, unit="batch")
    if config.tokens == "all":
        for batch in batches:
            yield from _read(model, batch, config, device=device)
        return
    for window in windows(batches, WINDOW):
        groups = equal_counts(window, batch_size=config.batch_size)
        found = {one.index: one for group in groups for one in _read(model, group, config, device=device)}
        yield from map(found.pop, window["index"].tolist())


def together(config: ExtractConfig) -> int:
    """Samples that are read together: where a split is divided between two of them, no mask's bytes change."""
    return config.batch_size * (1 if config.tokens == "all" else WINDOW)


def _read(model: ClassTokenViT, batch: Batch, config: ExtractConfig, *, device: torch.device) -> Iterator[Reading]:
    """The readings of one batch."""
    images = batch["image"].to(device, non_blocking=True)
    labels = batch["labels"].to(device)
    if config.tokens == "all":
        given = labels if config.label_source == "image" else None
        found = class_maps(model, images, given, config, threshold=config.threshold)
    else:
        found = candidate_maps(model, images, labels, config)
    refined = [
        PIXEL_REFINEMENTS[word](image, maps[chosen]).cpu()
        for word in config.refinement.split("+")
        if word in PIXEL_REFINEMENTS
        for image, maps, chosen in zip(images, found.maps, found.candidates, strict=True)
    ]
    maps, candidates, logits = found.maps.cpu(), found.candidates.cpu(), found.logits.cpu()
    for row, (index, size) in enumerate(zip(batch["index"].tolist(), batch["size"].tolist(), strict=True)):
        yield Reading(
            index=index,
            size=(size[0], size[1]),
            maps=maps[row],
            refined=refined[row] if refined else None,
            candidates=candidates[row],
            logits=logits[row],
        )


def _check(config: ExtractConfig, *, depth: int) -> None:
    if config.strategy == "auto":
        raise ParamsError(
            "extract_pseudomasks.strategy is auto, which names no masks: let ctm.pseudomasks.auto.choose take one of "
            f"its recipes first ({', '.join(config.auto)})."
        )
    if config.blocks is not None and config.blocks > depth:
        raise ParamsError(
            f"extract_pseudomasks.blocks is {config.blocks}, but the classifier has {depth} blocks: "
            f"choose 1 to {depth}, or null for all."
        )
