"""An independent transformer that keeps every N x N attention matrix, and maps read one image and class at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig

CLASSES, HEADS, DEPTH, WIDTH, PATCH = 4, 3, 3, 24, 4
SIZE, GRID = (8, 12), (2, 3)
CANDIDATES = torch.tensor([[True, False, True, True], [False, True, False, False], [False] * 4])


def make_model(
    *, channels: int = 3, closed: tuple[tuple[int, ...], ...] = ((), (), ()), patch_head: bool = True
) -> ClassTokenViT:
    """A tiny classifier whose attention is not uniform, with these heads of each block shut."""
    config = ModelConfig(
        backbone="vit_tiny_patch16_224",
        image_size=SIZE,
        patch_size=PATCH,
        depth=DEPTH,
        embed_dim=WIDTH,
        num_heads=HEADS,
        patch_head=patch_head,
    )
    torch.manual_seed(1)
    model = ClassTokenViT(config, GatesConfig(), num_classes=CLASSES, in_channels=channels).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.25)
    for gate, heads in zip(model.gates, closed, strict=True):
        gate.log_alpha.data[list(heads)] = -1.0
    return model


@dataclass(frozen=True)
class Forward:
    """Logits (B, C), patch scores (B, C, P), and for each block its attention (B, H, N, N) and its input (B, N, D)."""

    logits: Tensor
    scores: Tensor
    matrices: list[Tensor]
    entering: list[Tensor]
    grid: tuple[int, int]

    @property
    def patches(self) -> slice:
        return slice(CLASSES, CLASSES + self.grid[0] * self.grid[1])


def naive_forward(model: ClassTokenViT, images: Tensor) -> Forward:
    """The classifier written out from its weights."""
    w = model.state_dict()
    grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=4).flatten(2).transpose(1, 2)
    b = len(images)
    position = w["pos_embed"]
    positions = [position[:, :CLASSES], position[:, CLASSES:-1], position[:, -1:]]
    positions[1] = resample_abs_pos_embed(positions[1], list(grid), list(GRID), num_prefix_tokens=0, antialias=False)
    ends = w["class_tokens"].expand(b, -1, -1), w["register_token"].expand(b, -1, -1)
    x = (torch.cat([ends[0], x, ends[1]], dim=1) + torch.cat(positions, dim=1)).requires_grad_()
    matrices, entering = [], []
    for i in range(DEPTH):

        def layer(name: str, block: int = i) -> tuple[Tensor, Tensor]:
            return w[f"blocks.{block}.{name}.weight"], w[f"blocks.{block}.{name}.bias"]

        entering.append(x)
        y = F.layer_norm(x, (WIDTH,), *layer("norm1"), eps=1e-6)
        q, k, v = F.linear(y, *layer("attn.qkv")).view(b, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        matrix = torch.softmax(q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5, dim=-1)
        matrices.append(matrix)
        opened = (w[f"blocks.{i}.attn.gate.log_alpha"] > 0).float()[:, None, None]
        x = x + F.linear((opened * (matrix @ v)).transpose(1, 2).flatten(2), *layer("attn.proj"))
        y = F.layer_norm(x, (WIDTH,), *layer("norm2"), eps=1e-6)
        x = x + F.linear(F.gelu(F.linear(y, *layer("mlp.fc1"))), *layer("mlp.fc2"))
    x = F.layer_norm(x, (WIDTH,), w["norm.weight"], w["norm.bias"], eps=1e-6)
    logits = F.linear(x[:, :CLASSES].flatten(1), w["head.weight"], w["head.bias"])
    scores = torch.zeros(b, CLASSES, 0)
    if model.patch_head is not None:
        scores = F.linear(x[:, CLASSES:-1], w["patch_head.linear.weight"], w["patch_head.linear.bias"]).transpose(1, 2)
    return Forward(logits, scores, matrices, entering, grid)


def naive_attention(model: ClassTokenViT, images: Tensor, blocks: int = DEPTH) -> Tensor:
    seen = naive_forward(model, images)
    total = torch.zeros(len(images), CLASSES, *seen.grid)
    for block in range(DEPTH - blocks, DEPTH):
        for head in range(HEADS):
            if model.gates[block].log_alpha[head] > 0:
                rows = seen.matrices[block][:, head, :CLASSES, seen.patches].detach()
                total += rows.reshape(total.shape) / HEADS
    return total


def naive_relevance(
    model: ClassTokenViT, images: Tensor, candidates: Tensor, blocks: int, *, rows: str = "all"
) -> Tensor:
    """Gradients over the whole network."""
    maps = torch.zeros(len(images), CLASSES, *naive_forward(model, images).grid)
    for b, c in candidates.nonzero().tolist():
        seen = naive_forward(model, images[b : b + 1])
        gradients = torch.autograd.grad(seen.logits[0, c], seen.matrices)
        for matrix, gradient in list(zip(seen.matrices, gradients, strict=True))[DEPTH - blocks :]:
            product = (matrix * gradient).relu()[0].sum(dim=0).detach()
            for row in range(CLASSES) if rows == "all" else [c]:
                maps[b, c] += product[row, seen.patches].view(seen.grid)
    return maps


def naive_cam(model: ClassTokenViT, images: Tensor) -> Tensor:
    seen = naive_forward(model, images)
    return seen.scores.detach().clamp_min(0).reshape(len(images), CLASSES, *seen.grid)


def naive_gradcam(model: ClassTokenViT, images: Tensor, candidates: Tensor, blocks: int) -> Tensor:
    maps = torch.zeros(len(images), CLASSES, *naive_forward(model, images).grid)
    for b, c in candidates.nonzero().tolist():
        seen = naive_forward(model, images[b : b + 1])
        gradients = torch.autograd.grad(seen.logits[0, c], seen.entering)
        for tokens, gradient in list(zip(seen.entering, gradients, strict=True))[DEPTH - blocks :]:
            weights = gradient[0, seen.patches].mean(dim=0)
            scores = [max(float(token @ weights), 0.0) for token in tokens[0, seen.patches].detach()]
            maps[b, c] += torch.tensor(scores).view(seen.grid)
    return maps


def naive_affinity(model: ClassTokenViT, images: Tensor, blocks: int) -> Tensor:
    seen = naive_forward(model, images)
    total = torch.stack(seen.matrices[DEPTH - blocks :]).detach().mean(dim=(0, 2))
    patches = total[:, seen.patches, seen.patches]
    return patches / patches.sum(dim=-1, keepdim=True)


def naive_maps(
    strategy: str, model: ClassTokenViT, images: Tensor, candidates: Tensor, *, blocks: int = DEPTH, rows: str = "all"
) -> Tensor:
    """The maps of a strategy, zero where a class is no candidate."""
    maps = {
        "attention": lambda: naive_attention(model, images),
        "relevance": lambda: naive_relevance(model, images, candidates, blocks, rows=rows),
        "cam": lambda: naive_cam(model, images),
        "fused": lambda: naive_attention(model, images, blocks) * naive_cam(model, images),
        "gradcam": lambda: naive_gradcam(model, images, candidates, blocks),
    }
    return maps[strategy]() * candidates[:, :, None, None]


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)
