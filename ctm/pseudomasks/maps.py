"""Class maps: where in an image a class token looks (attention), or what raises the class's logit (relevance)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctm.models.attention import record_class_rows, record_patch_affinity
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import MapConfig
from ctm.pseudomasks.refine import propagate

__all__ = ["ClassMaps", "attention_maps", "class_maps", "relevance_maps"]


@dataclass(frozen=True)
class ClassMaps:
    """What one forward pass over a batch gives.

    Attributes:
        maps: (B, C, h0, w0), non-negative, not normalised; zero for classes that are no candidates.
        logits: (B, C).
        candidates: classes that the masks may hold, (B, C) bool.
    """

    maps: Tensor
    logits: Tensor
    candidates: Tensor


def class_maps(
    model: ClassTokenViT, images: Tensor, candidates: Tensor | None, config: MapConfig, *, threshold: float = 0.5
) -> ClassMaps:
    """Reads the maps of a batch by the configured strategy and refines them, in one forward pass.

    Args:
        model: gated or pruned classifier in evaluation mode.
        images: (B, channels, H, W), normalised, not made in inference mode.
        candidates: (B, C) bool, or None: the classes that the model predicts.
        config: strategy, blocks and refinement.
        threshold: probability above which a class counts as predicted.

    Raises:
        ValueError: the model is in training mode, or has fewer blocks than asked for.
    """
    refined = _last_blocks(model, config.blocks) if config.refinement == "affinity" else len(model.blocks)
    with record_patch_affinity(model.attentions[refined:], model.patches) as affinity:
        if config.strategy == "attention":
            maps, logits = attention_maps(model, images)
            chosen = _choose(logits, candidates, threshold)
            maps = maps * chosen[:, :, None, None]
        else:
            maps, logits, chosen = _relevance(model, images, candidates, blocks=config.blocks, threshold=threshold)
    if affinity.total is not None:
        maps = propagate(maps, affinity.total)
    return ClassMaps(maps, logits, chosen)


def attention_maps(model: ClassTokenViT, images: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's aggregate maps of all classes: attention of each class token to the patches, over all blocks.

    Args:
        model: gated or pruned classifier in evaluation mode.
        images: (B, channels, H, W).

    Returns:
        Maps (B, C, h0, w0) and logits (B, C), without gradient.

    Raises:
        ValueError: the model is in training mode.
    """
    _require_evaluation(model)
    return model.attention_maps(images)


def relevance_maps(
    model: ClassTokenViT, images: Tensor, candidates: Tensor, blocks: int | None = None
) -> tuple[Tensor, Tensor]:
    """Attention times its gradient, positive part, summed over all class tokens, heads and the last blocks.

    Chefer et al., "Transformer interpretability beyond attention visualization", CVPR 2021, and "Generic
    attention-model explainability", ICCV 2021; method section 4:
    ``map_c = sum over blocks, heads and class-token rows of relu(A * d logit_c / d A)``.

    One forward pass serves all classes, and its blocks before the chosen ones run without gradient. Backward pass k
    differentiates the sum over the images of each image's k-th candidate logit.

    Args:
        model: gated or pruned classifier in evaluation mode; freezing its parameters saves memory.
        images: (B, channels, H, W), not made in inference mode.
        candidates: classes to read the maps of, (B, C) bool.
        blocks: how many of the last blocks are read; None: all.

    Returns:
        Maps (B, C, h0, w0), zero where a class is no candidate, and logits (B, C), without gradient.

    Raises:
        ValueError: the model is in training mode, or has fewer blocks than asked for.
    """
    maps, logits, _ = _relevance(model, images, candidates, blocks=blocks, threshold=0.5)
    return maps, logits


def _relevance(
    model: ClassTokenViT, images: Tensor, candidates: Tensor | None, *, blocks: int | None, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, logits and candidates; these come from the logits of the same forward pass if they are not given."""
    _require_evaluation(model)
    first = _last_blocks(model, blocks)
    with torch.no_grad():
        tokens = model.encode(model.embed(images), stop=first)
    with torch.enable_grad(), record_class_rows(model.attentions[first:], model.num_classes) as rows:
        logits = model.classify(model.encode(tokens, start=first))
    chosen = _choose(logits.detach(), candidates, threshold)
    maps = logits.new_zeros(*logits.shape, model.grid[0] * model.grid[1], dtype=torch.float32)
    passes = int(chosen.sum(dim=1).max()) if rows else 0  # without a head in these blocks nothing is relevant
    rank = chosen.cumsum(dim=1)
    for k in range(1, passes + 1):
        kth = chosen & (rank == k)  # (B, C), at most one class an image
        # Images do not influence each other, so the gradient of the sum holds each image's own gradient.
        gradients = torch.autograd.grad(logits, rows, kth.to(logits.dtype), retain_graph=k < passes)
        relevance = _positive_part(rows, gradients, model.patches)
        maps += kth[:, :, None] * relevance[:, None, :]
    return maps.reshape(*logits.shape, *model.grid), logits.detach(), chosen


@torch.no_grad()
def _positive_part(rows: list[Tensor], gradients: tuple[Tensor, ...], patches: slice) -> Tensor:
    """relu(attention * gradient) summed over blocks, heads and class tokens, (B, P)."""
    products = [
        (attention[..., patches] * gradient[..., patches]).relu().sum(dim=(1, 2), dtype=torch.float32)
        for attention, gradient in zip(rows, gradients, strict=True)
    ]
    return torch.stack(products).sum(dim=0)


def _choose(logits: Tensor, candidates: Tensor | None, threshold: float) -> Tensor:
    return logits.sigmoid() > threshold if candidates is None else candidates.to(logits.device)


def _last_blocks(model: ClassTokenViT, blocks: int | None) -> int:
    """Index of the first of the last ``blocks`` blocks."""
    depth = len(model.blocks)
    if blocks is not None and not 1 <= blocks <= depth:
        raise ValueError(f"blocks is {blocks}, but the classifier has {depth}: choose 1 to {depth}, or null for all")
    return 0 if blocks is None else depth - blocks


def _require_evaluation(model: ClassTokenViT) -> None:
    if model.training:
        raise ValueError("class maps are read in evaluation mode: call model.eval() first")
