"""The classifier: a Vision Transformer with one class token a class, a register token and gated attention heads."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, cast

import timm
import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ctm.errors import ModelError
from ctm.models.attention import GatedAttention, record_class_rows
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.gates import HardConcreteGate
from ctm.models.token_masking import mask_absent_tokens
from ctm.models.weights import DOWNLOAD_HINT, check_weights

__all__ = ["ClassTokenViT"]

RANDOM_STD = 0.02
"""Standard deviation of new tokens and positions without a pretrained model, as timm's own position embeddings."""

NOISE = 0.1
"""Noise that tells the copies of a pretrained token apart, as a fraction of the token's own standard deviation."""


class ClassTokenViT(nn.Module):
    """Multi-label classifier with class-specific tokens (Hanna & Borth, ICCV 2025, section 3).

    The sequence is C class tokens, P patch tokens (row by row) and 1 register token, each with a learned position.
    One dense layer maps the C concatenated output class tokens to C logits.

    Attributes:
        num_classes: number of class tokens C.
        in_channels: image channels.
        image_size: height and width in pixels.
        patch_size: side of a patch in pixels.
        grid: rows and columns of patches, (h0, w0).
        patches: where the patches lie in the sequence.
        original_heads: heads of each block before pruning.
    """

    def __init__(self, config: ModelConfig, gates: GatesConfig, *, num_classes: int, in_channels: int) -> None:
        """Builds the backbone with timm and replaces its tokens, positions, attentions and head.

        Raises:
            ModelError: unknown or unsuitable backbone, image size that is no multiple of the patch size, sizes that
                do not go together, or weights that are missing or do not fit.
        """
        super().__init__()
        vit = _build_backbone(config, in_channels)
        self.config, self.gates_config = config, gates
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, config.size
        self.patch_size: int = vit.patch_embed.patch_size[0]
        _check_image_size(config.size, self.patch_size)
        self.grid = (config.size[0] // self.patch_size, config.size[1] // self.patch_size)
        self.patches = slice(num_classes, num_classes + self.grid[0] * self.grid[1])

        self.patch_embed: nn.Module = vit.patch_embed
        class_token, register = (vit.cls_token, vit.reg_token) if config.pretrained else (None, None)
        self.class_tokens = nn.Parameter(_start_token(class_token, num_classes, vit.embed_dim))
        self.register_token = nn.Parameter(_start_token(register, 1, vit.embed_dim))
        own_position = class_token is not None and not vit.no_embed_class
        self.pos_embed = nn.Parameter(_start_positions(vit, num_classes, copy=own_position))
        self.norm_pre: nn.Module = vit.norm_pre
        self.blocks: nn.Sequential = vit.blocks
        for block in self.blocks:
            block.attn = _gate_heads(block, config.backbone, gates)
        self.original_heads = self.attentions[0].original_heads
        # Backbones that pool their patches keep the final norm behind the pooling.
        self.norm: nn.Module = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
        self.head = nn.Linear(num_classes * vit.embed_dim, num_classes)

    @property
    def attentions(self) -> list[GatedAttention]:
        """The attention of each block."""
        return [cast("GatedAttention", block.attn) for block in self.blocks]

    @property
    def gates(self) -> list[HardConcreteGate]:
        """The gates of each block; empty once the heads have been removed physically."""
        return [attention.gate for attention in self.attentions if attention.gate is not None]

    @property
    def kept_heads(self) -> list[list[int]]:
        """For each block the original indices of the heads it still has."""
        return [attention.kept_heads for attention in self.attentions]

    def gate_penalty(self) -> Tensor:
        """Expected number of open heads over all blocks, a scalar, not yet multiplied by lambda."""
        return sum((gate.penalty() for gate in self.gates), start=self.class_tokens.new_zeros(()))

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that must not decay, besides those of one dimension."""
        gates = {name for name, _ in self.named_parameters() if name.endswith("log_alpha")}
        return {"class_tokens", "register_token", "pos_embed"} | gates

    def forward(
        self,
        images: Tensor,
        present: Tensor | None = None,
        *,
        masking_ratio: float = 0.0,
        generator: torch.Generator | None = None,
        gate_generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logits of the classes, (B, C).

        Args:
            images: (B, channels, H, W), normalised.
            present: classes each image has, (B, C) bool; with it absent tokens are masked, in training only.
            masking_ratio: masking probability of an absent class, 0 <= ratio < 1.
            generator: source of the masking draws, one a rank.
            gate_generator: source of the gate samples, the same on all ranks.

        Raises:
            ModelError: images of another size or number of channels than the model's.
        """
        tokens = self.encode(self.embed(images), gate_generator=gate_generator)
        return self.classify(tokens, present, masking_ratio=masking_ratio, generator=generator)

    def embed(self, images: Tensor) -> Tensor:
        """The sequence that enters the first block, (B, C + P + 1, D)."""
        expected = (self.in_channels, *self.image_size)
        if tuple(images.shape[1:]) != expected:
            raise ModelError(
                f"the model takes images of channels, height, width {expected}, not {tuple(images.shape[1:])}"
            )
        patches = self.patch_embed(images)
        batch = patches.shape[0]
        classes, register = self.class_tokens.expand(batch, -1, -1), self.register_token.expand(batch, -1, -1)
        return cast("Tensor", self.norm_pre(torch.cat([classes, patches, register], dim=1) + self.pos_embed))

    def encode(
        self,
        tokens: Tensor,
        *,
        start: int = 0,
        stop: int | None = None,
        gate_generator: torch.Generator | None = None,
    ) -> Tensor:
        """Runs the blocks ``start`` to ``stop`` (exclusive; None: to the end), (B, N, D) -> (B, N, D)."""
        for block, attention in zip(self.blocks[start:stop], self.attentions[start:stop], strict=True):
            attention.generator = gate_generator
            tokens = block(tokens)
            attention.generator = None
        return tokens

    def classify(
        self,
        tokens: Tensor,
        present: Tensor | None = None,
        *,
        masking_ratio: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logits (B, C) from the last block's output (B, N, D); the other arguments are those of ``forward``."""
        classes = self.norm(tokens[:, : self.num_classes])
        if self.training and present is not None:
            classes = mask_absent_tokens(classes, present, ratio=masking_ratio, generator=generator)
        return cast("Tensor", self.head(classes.flatten(1)))

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The paper's aggregate map A_c: attention of class token c to the patches, block by block, no gradient.

        Summed over the blocks, averaged over the original heads, closed ones counting zero, so that the gated and
        the physically pruned model give the same map. Nothing is renormalised.

        Returns:
            Maps (B, C, h0, w0), non-negative, and logits (B, C).
        """
        tokens = self.embed(images)
        total = tokens.new_zeros(len(images), self.num_classes, self.grid[0] * self.grid[1])
        for block, attention in enumerate(self.attentions):
            with record_class_rows([attention], self.num_classes) as recorded:
                tokens = self.encode(tokens, start=block, stop=block + 1)
            for rows in recorded:
                total += rows[..., self.patches].sum(dim=1) / self.original_heads
        return total.reshape(-1, self.num_classes, *self.grid), self.classify(tokens)


def _build_backbone(config: ModelConfig, in_channels: int) -> VisionTransformer:
    """Timm's model of that name and those sizes, with pretrained weights adapted to the channels and the grid."""
    _check_backbone(config.backbone)
    sizes = {name: getattr(config, name) for name in ("patch_size", "depth", "embed_dim", "num_heads")}
    given = {name: size for name, size in sizes.items() if size is not None}
    arguments: dict[str, Any] = {
        "img_size": config.size,
        "in_chans": in_channels,
        "num_classes": 0,
        "dynamic_img_size": False,
        "drop_path_rate": config.drop_path,
        **given,
    }
    try:
        if isinstance(config.pretrained, str):
            with torch.device("meta"):
                skeleton = timm.create_model(config.backbone, **arguments)
            check_weights(config.pretrained, skeleton, parameter="model.pretrained")
            arguments["pretrained_cfg_overlay"] = {"file": config.pretrained}
        vit = timm.create_model(config.backbone, pretrained=bool(config.pretrained), **arguments)
    except (AssertionError, OSError, RuntimeError) as error:
        hint = f" {DOWNLOAD_HINT}" if config.pretrained is True else ""
        raise ModelError(
            f"backbone {config.backbone!r} cannot be built with {given or 'its own sizes'} and "
            f"pretrained={config.pretrained!r}: {error}.{hint}"
        ) from error
    if vit.pos_embed is None:
        raise ModelError(f"backbone {config.backbone!r} has no learned position embedding; choose another")
    return cast("VisionTransformer", vit)


def _check_backbone(name: str) -> None:
    known = timm.list_models(module="vision_transformer")
    architecture = name.split(".")[0]  # timm writes <architecture>.<weights>
    if architecture not in known:
        close = get_close_matches(architecture, known, n=5) or known[:5]
        raise ModelError(
            f"unknown backbone {name!r}: not a Vision Transformer of timm; close names: {', '.join(close)}"
        )


def _check_image_size(size: tuple[int, int], patch: int) -> None:
    advice = []
    for side, pixels in zip(("height", "width"), size, strict=True):
        if pixels % patch:
            below, above = pixels // patch * patch, (pixels // patch + 1) * patch
            advice.append(f"{side} {pixels}: use {f'{below} or ' if below else ''}{above}")
    if advice:
        raise ModelError(
            f"image size {size[0]}x{size[1]} (height x width) is not a multiple of the patch size {patch}; "
            + "; ".join(advice)
        )


def _gate_heads(block: nn.Module, backbone: str, gates: GatesConfig) -> GatedAttention:
    attention = getattr(block, "attn", None)
    if not isinstance(attention, Attention):
        raise ModelError(f"backbone {backbone!r} has blocks without plain self-attention; choose another")
    return GatedAttention(attention, HardConcreteGate(attention.num_heads, **gates.model_dump()))


def _start_token(pretrained: Tensor | None, count: int, width: int) -> Tensor:
    """Start of ``count`` tokens, (1, count, D): copies of the first pretrained one plus noise, or random."""
    if pretrained is None:
        return nn.init.trunc_normal_(torch.empty(1, count, width), std=RANDOM_STD)
    token = pretrained.detach()[:, :1]
    return token + NOISE * token.std() * torch.randn(1, count, width)


def _start_positions(vit: VisionTransformer, num_classes: int, *, copy: bool) -> Tensor:
    """Start of the positions, (1, C + P + 1, D): patches as timm has them, classes copy the first one or are random."""
    positions = cast("Tensor", vit.pos_embed).detach()
    classes = _start_token(positions if copy else None, num_classes, vit.embed_dim)
    register = _start_token(None, 1, vit.embed_dim)
    return torch.cat([classes, positions[:, -vit.patch_embed.num_patches :], register], dim=1)
