"""Rows of the table: class-token masking, maps, assignment and pruned models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bench.reference import (
    assign_paper_by_pixels,
    attention_maps_of_kept_matrices,
    breadth_first,
    mask_tokens_by_loops,
    paint_by_pixels,
    relevance_one_by_one,
)
from bench.row import Row
from ctm.data.classes import IGNORE
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.pruning import prune_heads
from ctm.models.token_masking import mask_absent_tokens
from ctm.pseudomasks.assign import assign_paper
from ctm.pseudomasks.config import MapConfig
from ctm.pseudomasks.maps import ClassMaps, class_maps
from ctm.pseudomasks.strategies import STRATEGIES

__all__ = ["DEFAULT", "PAPER", "Sizes", "model_rows"]

CLOSE = 1e-4
"""Largest difference between reference and ours, as a fraction of the reference's largest value."""

LAST_BLOCKS = 3
DEAREST = 2.5
"""Plain forward passes that the maps of a batch may cost."""

SHARES = (0.0, 0.25, 0.5, 0.67, 0.75)
"""Fractions of the heads that are removed."""


@dataclass(frozen=True)
class Sizes:
    """How big the inputs are.

    Attributes:
        channels: of an image.
        image: side of an image in pixels.
        patch: side of a patch in pixels.
        classes: number of class tokens C.
        depth: number of blocks.
        width: of a token, D.
        heads: attention heads of a block.
        batch: images in a forward pass.
    """

    channels: int
    image: int
    patch: int
    classes: int
    depth: int
    width: int
    heads: int
    batch: int


DEFAULT = Sizes(channels=3, image=224, patch=16, classes=20, depth=12, width=384, heads=12, batch=4)
"""ViT-S with twice its heads, on photographs."""
PAPER = Sizes(channels=15, image=224, patch=14, classes=8, depth=12, width=768, heads=16, batch=2)
"""DFC2020 in the paper's Table 7: ViT-B with 16 heads."""


def model_rows(sizes: Sizes) -> Iterator[Row]:
    """The rows of the table, each made when the one before has been measured."""
    yield masking_row(sizes)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(sizes.batch, sizes.channels, sizes.image, sizes.image, generator=generator)
    model = make_model(sizes)
    yield Row(
        "attention: N×N of all blocks kept ÷ C×N rows",
        lambda: attention_maps_of_kept_matrices(model, images),
        lambda: model.attention_maps(images),
        close,
        memory=True,
    )
    few, candidates = images[:2], two_or_three(sizes)[:2]  # the plain way takes seconds an image
    yield Row(
        f"relevance, {LAST_BLOCKS} blocks, {mean_count(candidates):.3g} classes: one by one ÷ batched",
        lambda: relevance_one_by_one(model, few, candidates, LAST_BLOCKS),
        lambda: read(model, few, candidates, "relevance").maps,
        close,
        memory=True,
    )
    for strategy in STRATEGIES:
        yield price_row(sizes, images, strategy)
    yield assignment_row(sizes)
    for share in SHARES:
        yield pruning_row(sizes, images, share)


def price_row(sizes: Sizes, images: Tensor, strategy: str) -> Row:
    """What reading the maps of a batch costs, in plain forward passes: the ratio is the price."""
    model, candidates = make_model(sizes, patch_head=True), two_or_three(sizes)
    model.requires_grad_(False)  # as extraction does
    return Row(
        f"price: {strategy}, {LAST_BLOCKS} blocks, {mean_count(candidates):.3g} classes ÷ forward",
        lambda: read(model, images, candidates, strategy),
        lambda: forward(model, images),
        None,
        memory=True,
        limit=DEAREST,
    )


def masking_row(sizes: Sizes) -> Row:
    """Class-token masking of a training batch of 64."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(64, sizes.classes, sizes.width, generator=generator)
    present = torch.rand(64, sizes.classes, generator=generator) < 0.2

    def same_draws() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    return Row(
        "token masking, batch 64: loops ÷ vectorised",
        lambda: mask_tokens_by_loops(tokens, present, 0.5, same_draws()),
        lambda: mask_absent_tokens(tokens, present, 0.5, same_draws()),
        torch.equal,
    )


def assignment_row(sizes: Sizes) -> Row:
    """Threshold, painting and nearest fill of a batch at full size."""
    generator = torch.Generator().manual_seed(4)
    grid, size = sizes.image // sizes.patch, (sizes.image, sizes.image)
    coarse = torch.rand(sizes.batch, sizes.classes, 4, 4, generator=generator)
    maps = F.interpolate(coarse, size=(grid, grid), mode="bicubic").clamp_min(0)
    probabilities = torch.rand(sizes.batch, sizes.classes, generator=generator)
    batch = list(zip(maps, probabilities, two_or_three(sizes), strict=True))

    def agree(reference: list[NDArray[np.uint8]], ours: list[NDArray[np.uint8]]) -> bool:
        painted = [paint_by_pixels(*image, size) for image in batch]
        return all(map(nearest_everywhere, painted, reference)) and all(map(nearest_everywhere, painted, ours))

    return Row(
        "threshold, paint, fill: pixel by pixel ÷ assign_paper",
        lambda: [assign_paper_by_pixels(*image, size) for image in batch],
        lambda: [assign_paper(*image, size, "nearest") for image in batch],
        agree,
    )


def pruning_row(sizes: Sizes, images: Tensor, share: float) -> Row:
    """Forward pass with a share of every block's heads shut by its gate, and without these heads.

    The name tells the share of heads that are shut and the share of weights that are left.
    """
    removed = round(share * sizes.heads)
    gated = make_model(sizes, closed=removed)
    pruned = prune_heads(gated)
    before, after = (sum(p.numel() for p in model.parameters()) for model in (gated, pruned))
    return Row(
        f"forward, {removed / sizes.heads:.0%} heads, {after / before:.0%} weights: gated ÷ pruned",
        lambda: forward(gated, images),
        lambda: forward(pruned, images),
        close,
    )


def make_model(sizes: Sizes, *, closed: int = 0, patch_head: bool = False) -> ClassTokenViT:
    """A classifier with random weights, large enough that attention is not uniform, and ``closed`` gates a block."""
    config = ModelConfig(
        backbone="vit_base_patch16_224",
        image_size=sizes.image,
        patch_size=sizes.patch,
        depth=sizes.depth,
        embed_dim=sizes.width,
        num_heads=sizes.heads,
        patch_head=patch_head,
    )
    torch.manual_seed(0)
    model = ClassTokenViT(config, GatesConfig(), num_classes=sizes.classes, in_channels=sizes.channels).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=sizes.width**-0.5)
    for gate in model.gates:
        gate.log_alpha.data[:closed] = -1.0
    return model


def two_or_three(sizes: Sizes) -> Tensor:
    """Candidates: two classes in one image, three in the next, (B, C) bool."""
    candidates = torch.zeros(sizes.batch, sizes.classes, dtype=torch.bool)
    for b in range(sizes.batch):
        for k in range(2 + b % 2):
            candidates[b, (3 * b + k) % sizes.classes] = True
    return candidates


def mean_count(candidates: Tensor) -> float:
    """Candidates of an image on average."""
    return float(candidates.sum()) / len(candidates)


def read(model: ClassTokenViT, images: Tensor, candidates: Tensor, strategy: str) -> ClassMaps:
    """The maps of a strategy that reads the last blocks."""
    return class_maps(
        model, images, candidates, MapConfig.model_validate({"strategy": strategy, "blocks": LAST_BLOCKS})
    )


@torch.no_grad()
def forward(model: ClassTokenViT, images: Tensor) -> Tensor:
    """The plain forward pass, without gradient."""
    logits: Tensor = model(images)
    return logits


def close(reference: Any, ours: Any) -> bool:
    """Whether two tensors, or the tensors of two tuples, agree up to rounding."""
    if isinstance(reference, tuple):
        return all(map(close, reference, ours))
    return bool((reference - ours).abs().max() <= CLOSE * reference.abs().max())


def nearest_everywhere(painted: NDArray[np.uint8], filled: NDArray[np.uint8]) -> bool:
    """Whether ``filled`` keeps what is painted and gives every other pixel a value that is nearest to it.

    Where two values are equally near, either is right.
    """
    distance = breadth_first(painted, painted != IGNORE)[1]
    return all(
        bool((breadth_first(painted, painted == value)[1] == distance)[filled == value].all())
        for value in np.unique(filled)
    )
