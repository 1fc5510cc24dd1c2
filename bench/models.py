"""Rows of the table: class-token masking, maps, assignment and pruned models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
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
    forward_keeping_matrices,
    mask_tokens_by_loops,
    paint_by_pixels,
    relevance_one_by_one,
)
from bench.row import Row
from bench.sizes import Setting, Sizes
from ctm.data.classes import IGNORE
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.pruning import prune_heads
from ctm.models.token_masking import mask_absent_tokens
from ctm.pseudomasks.assign import assign_paper
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.maps import ClassMaps, class_maps
from ctm.pseudomasks.strategies import STRATEGIES
from ctm.training.compiling import compile_network

__all__ = ["attention_row", "close", "close_in", "forward", "make_model", "model_rows", "random_images", "two_or_three"]

CLOSE = {"fp32": 1e-4, "bf16": 0.1}
"""Largest difference between reference and ours, as a fraction of the reference's largest value."""

FEW = 1000
"""Tokens from which the dearest references work on one image."""

LAST_BLOCKS = 3
DEAREST = 2.5
"""Plain forward passes that the maps of a batch may cost."""

SHARES = (0.0, 0.25, 0.5, 0.67, 0.75)
"""Fractions of the heads that are removed."""


def model_rows(setting: Setting) -> Iterator[Row]:
    """The rows of the table, each made when the one before has been measured."""
    if setting.device.type == "cpu":
        yield masking_row(setting.sizes)
    yield attention_row(setting)
    yield relevance_row(setting)
    for strategy in STRATEGIES:
        yield price_row(setting, strategy)
    if setting.device.type == "cpu":
        yield assignment_row(setting.sizes)
    yield from forward_rows(setting)
    for share in SHARES:
        yield pruning_row(setting, share)


def attention_row(setting: Setting) -> Row:
    """The paper's maps and a forward pass."""
    model, images = make_model(setting.sizes).to(setting.device), random_images(setting)
    return Row(
        "attention: N×N of all blocks kept ÷ C×N rows",
        lambda: attention_maps_of_kept_matrices(model, images),
        within(setting, lambda: model.attention_maps(images)),
        close_in(setting),
        memory=True,
        device=setting.device,
    )


def relevance_row(setting: Setting) -> Row:
    """Maps of strategy relevance, which the plain way takes seconds an image for: two images, or one where N is large.

    Both in fp32, as in extraction.
    """
    number = 2 if setting.sizes.tokens < FEW else 1
    model, images = make_model(setting.sizes).to(setting.device), random_images(setting)[:number]
    candidates = two_or_three(setting.sizes, number).to(setting.device)

    def ours() -> tuple[Tensor, Tensor]:
        found = read(model, images, candidates, "relevance")
        return found.maps, found.logits

    return Row(
        f"relevance, {LAST_BLOCKS} blocks, {mean_count(candidates):.3g} classes: one by one ÷ batched",
        lambda: relevance_one_by_one(model, images, candidates, LAST_BLOCKS),
        ours,
        close,
        memory=True,
        device=setting.device,
    )


def price_row(setting: Setting, strategy: str) -> Row:
    """What reading the maps of a batch costs, in plain forward passes: the ratio is the price."""
    model = make_model(setting.sizes, patch_head=True).to(setting.device)
    images, candidates = random_images(setting), two_or_three(setting.sizes, setting.batch).to(setting.device)
    model.requires_grad_(False)  # as extraction does
    return Row(
        f"price: {strategy}, {LAST_BLOCKS} blocks, {mean_count(candidates):.3g} classes ÷ forward",
        lambda: read(model, images, candidates, strategy),
        lambda: forward(model, images),
        None,
        memory=True,
        limit=DEAREST,
        device=setting.device,
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
    size = sizes.image
    coarse = torch.rand(sizes.batch, sizes.classes, 4, 4, generator=generator)
    maps = F.interpolate(coarse, size=sizes.grid, mode="bicubic").clamp_min(0)
    probabilities = torch.rand(sizes.batch, sizes.classes, generator=generator)
    chosen = two_or_three(sizes)
    batch = [(maps[row][own], probabilities[row][own]) for row, own in enumerate(chosen)]

    def agree(reference: list[NDArray[np.uint8]], ours: list[NDArray[np.uint8]]) -> bool:
        painted = [paint_by_pixels(*image, size) for image in batch]
        return all(map(nearest_everywhere, painted, reference)) and all(map(nearest_everywhere, painted, ours))

    return Row(
        "threshold, paint, fill: pixel by pixel ÷ assign_paper",
        lambda: [assign_paper_by_pixels(*image, size) for image in batch],
        lambda: [assign_paper(*image, size, "nearest") for image in batch],
        agree,
    )


def forward_rows(setting: Setting) -> Iterator[Row]:
    """Plain forward pass, without and with ``torch.compile``."""
    images = random_images(setting)
    plain = make_model(setting.sizes).to(setting.device)
    for compiled in (False, True) if setting.compiled else (False,):
        model = make_model(setting.sizes).to(setting.device)
        if compiled:
            compile_network(model)
        yield Row(
            f"forward{', torch.compile' if compiled else ''}: N×N kept ÷ ours",
            torch.no_grad()(lambda: forward_keeping_matrices(plain, images)[0]),
            within(setting, partial(forward, model, images)),
            close_in(setting),
            memory=True,
            device=setting.device,
        )


def pruning_row(setting: Setting, share: float) -> Row:
    """Forward pass with a share of every block's heads shut by its gate, and without these heads.

    The name tells the share of heads that are shut and the share of weights that are left. Both sides in the precision
    of ours.
    """
    removed = round(share * setting.sizes.heads)
    gated, images = make_model(setting.sizes, closed=removed).to(setting.device), random_images(setting)
    pruned = prune_heads(gated)
    before, after = (sum(p.numel() for p in model.parameters()) for model in (gated, pruned))
    return Row(
        f"forward, {removed / setting.sizes.heads:.0%} heads removed, {after / before:.0%} weights: gated ÷ pruned",
        within(setting, lambda: forward(gated, images)),
        within(setting, lambda: forward(pruned, images)),
        close_in(setting),
        device=setting.device,
    )


def random_images(setting: Setting) -> Tensor:
    """A batch of noise, (B, Ch, H, W)."""
    generator = torch.Generator().manual_seed(1)
    shape = (setting.batch, setting.sizes.channels, *setting.sizes.image)
    return torch.randn(shape, generator=generator).to(setting.device)


def within(setting: Setting, function: Callable[[], Any]) -> Callable[[], Any]:
    """The function in the precision of ours."""

    def run() -> Any:
        with setting.autocast():
            return function()

    return run


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


def two_or_three(sizes: Sizes, number: int | None = None) -> Tensor:
    """Candidates of ``number`` images (None: a batch): two classes in one, three in the next, (B, C) bool."""
    candidates = torch.zeros(sizes.batch if number is None else number, sizes.classes, dtype=torch.bool)
    for b in range(len(candidates)):
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


def close(reference: Any, ours: Any, *, tolerance: float = CLOSE["fp32"]) -> bool:
    """Whether two tensors, or the tensors of two tuples, agree up to rounding."""
    if isinstance(reference, tuple):
        return all(close(one, other, tolerance=tolerance) for one, other in zip(reference, ours, strict=True))
    return bool((reference - ours.to(reference.dtype)).abs().max() <= tolerance * reference.abs().max())


def close_in(setting: Setting) -> Callable[[Any, Any], bool]:
    """``close`` with the tolerance of the setting's precision."""
    return partial(close, tolerance=CLOSE[setting.precision])


def nearest_everywhere(painted: NDArray[np.uint8], filled: NDArray[np.uint8]) -> bool:
    """Whether ``filled`` keeps what is painted and gives every other pixel a value that is nearest to it.

    Where two values are equally near, either is right.
    """
    distance = breadth_first(painted, painted != IGNORE)[1]
    return all(
        bool((breadth_first(painted, painted == value)[1] == distance)[filled == value].all())
        for value in np.unique(filled)
    )
