"""The paper's formulation written plainly: loops over samples and pixels, every N x N attention matrix kept.

What is not under comparison (weights, layers, upsampling) is taken from ctm, so that a row of the table differs in one
thing alone.
"""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ctm.data.classes import IGNORE
from ctm.models.attention import GatedAttention
from ctm.models.class_token_vit import ClassTokenViT

__all__ = [
    "assign_paper_by_pixels",
    "attention_maps_of_kept_matrices",
    "breadth_first",
    "drop_tokens_by_loops",
    "encode_keeping_matrices",
    "mask_tokens_by_loops",
    "paint_by_pixels",
    "relevance_one_by_one",
]

TOLERANCE = 1e-6
"""Relative tolerance of the comparison with the mean."""


def mask_tokens_by_loops(tokens: Tensor, present: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """``mask_absent_tokens`` with a draw and a decision for every image and class, (B, C, D)."""
    draws = torch.zeros(present.shape)
    for b in range(tokens.shape[0]):
        for c in range(tokens.shape[1]):
            draws[b, c] = torch.rand((), generator=generator)
    return drop_tokens_by_loops(tokens, present, draws < ratio)


def drop_tokens_by_loops(tokens: Tensor, present: Tensor, chosen: Tensor) -> Tensor:
    """Zeroes the tokens of absent classes that are ``chosen``, (B, C) bool, one after the other, (B, C, D)."""
    masked = tokens.clone()
    for b in range(tokens.shape[0]):
        for c in range(tokens.shape[1]):
            if not present[b, c] and chosen[b, c]:
                masked[b, c] = 0
    return masked


@torch.no_grad()
def attention_maps_of_kept_matrices(model: ClassTokenViT, images: Tensor) -> tuple[Tensor, Tensor]:
    """The model's ``attention_maps``, read from the N x N matrices of all blocks after the forward pass."""
    logits, matrices = forward_keeping_matrices(model, images)
    total = sum(m[:, :, : model.num_classes, model.patches].sum(dim=1) for m in matrices) / model.original_heads
    return torch.as_tensor(total).reshape(len(images), model.num_classes, *model.grid), logits


def relevance_one_by_one(
    model: ClassTokenViT, images: Tensor, candidates: Tensor, blocks: int
) -> tuple[Tensor, Tensor]:
    """Strategy relevance with a forward pass and a backward pass of the whole network for every image and class.

    Returns:
        Maps (B, C, h0, w0), and logits (B, C), zero for images without a candidate.
    """
    maps = images.new_zeros(len(images), model.num_classes, model.grid[0] * model.grid[1])
    scores = images.new_zeros(len(images), model.num_classes)
    for b, c in candidates.nonzero().tolist():
        logits, matrices = forward_keeping_matrices(model, images[b : b + 1])
        gradients = torch.autograd.grad(logits[0, c], matrices)
        for matrix, gradient in list(zip(matrices, gradients, strict=True))[-blocks:]:
            product = (matrix * gradient).relu()[0, :, : model.num_classes, model.patches]  # (H, C, P)
            maps[b, c] += product.sum(dim=(0, 1)).detach()
        scores[b] = logits[0].detach()
    return maps.reshape(len(images), model.num_classes, *model.grid), scores


def forward_keeping_matrices(model: ClassTokenViT, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits (B, C), and for each block gate times softmax, (B, H, N, N)."""
    tokens, matrices = encode_keeping_matrices(model, images)
    return model.classify(tokens), matrices


def encode_keeping_matrices(
    model: ClassTokenViT, images: Tensor, gate_generator: torch.Generator | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The last block's output (B, N, D), and for each block gate times softmax, (B, H, N, N)."""
    tokens = model.embed(images)
    matrices = []
    for block in model.blocks:
        layers = cast("Any", block)  # a timm Block
        heads, matrix = _attend(layers.attn, layers.norm1(tokens), gate_generator)
        matrices.append(matrix)
        tokens = tokens + layers.ls1(heads)
        tokens = tokens + layers.ls2(layers.mlp(layers.norm2(tokens)))
    return tokens, matrices


def _attend(attention: GatedAttention, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    batch, length, _ = x.shape
    split = (batch, length, 3, len(attention.kept_heads), attention.head_dim)
    q, k, v = attention.qkv(x).reshape(split).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, d) each
    q, k = attention.q_norm(q), attention.k_norm(k)
    matrix = (q * attention.scale @ k.transpose(-2, -1)).softmax(dim=-1)
    if attention.gate is not None:
        matrix = matrix * attention.gate(generator)[:, None, None]
    heads: Tensor = attention.proj((matrix @ v).transpose(1, 2).reshape(batch, length, -1))
    return heads, matrix


def assign_paper_by_pixels(maps: Tensor, probabilities: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """``assign_paper`` with fill "nearest": each pixel looked at by itself, the rest filled breadth first."""
    mask = paint_by_pixels(maps, probabilities, size)
    return breadth_first(mask, mask != IGNORE)[0]


def paint_by_pixels(maps: Tensor, probabilities: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """What the classes paint before the fill; 255 where no class does, (H, W)."""
    mask = np.full(size, IGNORE, dtype=np.uint8)
    for c in probabilities.argsort(stable=True).tolist():
        scores = F.interpolate(maps[None, c : c + 1].double(), size=size, mode="bilinear", align_corners=False)[0, 0]
        values = scores.tolist()
        mean = sum(map(sum, values)) / (size[0] * size[1])
        for row in range(size[0]):
            for column in range(size[1]):
                if values[row][column] >= mean - TOLERANCE * abs(mean):
                    mask[row, column] = c
    return mask


def breadth_first(mask: NDArray[np.uint8], painted: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Gives each unpainted pixel the value of a painted one next to it, in waves; the mask, and the taxicab distance.

    The distance is -1 everywhere if nothing is painted.
    """
    filled, distance = mask.copy(), np.where(painted, 0, -1)
    height, width = mask.shape
    waiting = deque((int(row), int(column)) for row, column in np.argwhere(painted))
    while waiting:
        row, column = waiting.popleft()
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < height and 0 <= c < width and distance[r, c] < 0:
                filled[r, c] = filled[row, column]
                distance[r, c] = distance[row, column] + 1
                waiting.append((r, c))
    return filled, distance
