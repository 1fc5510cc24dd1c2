"""The classifier: a Vision Transformer with one class token a class, a register token and gated attention heads."""

from __future__ import annotations

import copy
from difflib import get_close_matches
from typing import NamedTuple, cast

import timm
import torch
from timm.layers.attention import Attention
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ctm.errors import ModelError
from ctm.models.attention import GatedAttention, record_class_rows
from ctm.models.class_head import make_head
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.gates import HardConcreteGate
from ctm.models.patch_head import PatchHead, pool_by_rank
from ctm.models.token_masking import mask_absent_tokens
from ctm.models.weights import create_vit

__all__ = ["ClassTokenViT", "TrainingLogits"]

RANDOM_STD = 0.02
"""Standard deviation of new tokens and positions without a pretrained model, as timm's own position embeddings."""

NOISE = 0.1
"""Noise that tells the copies of a pretrained token apart, as a fraction of the token's own standard deviation."""


class TrainingLogits(NamedTuple):
    """What one encoding of a training batch gives, (B, C) each.

    Attributes:
        masked: logits from class tokens of which absent classes' are masked at random; the loss is theirs.
        unmasked: logits from all class tokens, without gradient, under the step's own gates and dropped paths.
        patches: pooled logits of the patch head; None in a model without one.
    """

    masked: Tensor
    unmasked: Tensor
    patches: Tensor | None


class ClassTokenViT(nn.Module):
    """Multi-label classifier with class-specific tokens (Hanna & Borth, ICCV 2025, section 3).

    The sequence is C class tokens, P patch tokens (row by row) and 1 register token, each with a learned position. A
    head maps the C output class tokens to C logits; see ``ctm.models.class_head``. Images of another size than the
    model's are read with the patches' positions resized.

    Attributes:
        num_classes: number of class tokens C.
        in_channels: image channels.
        image_size: height and width in pixels.
        patch_size: side of a patch in pixels.
        grid: rows and columns of patches at that size, (h0, w0).
        original_heads: heads of each block before pruning.
        patch_head: classifier of the patch tokens, if there is one.
        grad_checkpointing: whether training computes a block's activations again instead of keeping them.
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

        self.patch_embed: nn.Module = vit.patch_embed
        vit.patch_embed.strict_img_size = False
        class_token, register = (vit.cls_token, vit.reg_token) if config.pretrained else (None, None)
        self.class_tokens = nn.Parameter(_start_token(class_token, num_classes, vit.embed_dim))
        registers = int(config.register_token)
        self.register_token = nn.Parameter(_start_token(register, 1, vit.embed_dim)) if registers else None
        own_position = class_token is not None and not vit.no_embed_class
        self.pos_embed = nn.Parameter(_start_positions(vit, num_classes, registers, copy=own_position))
        self.norm_pre: nn.Module = vit.norm_pre
        self.blocks: nn.Sequential = vit.blocks
        for block in self.blocks:
            block.attn = _gate_heads(block, config.backbone, gates)
        self.original_heads = self.attentions[0].original_heads
        # Backbones that pool their patches keep the final norm behind the pooling.
        self.norm: nn.Module = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
        self.head = make_head(config.head, num_classes, vit.embed_dim)
        self.patch_head = PatchHead(vit.embed_dim, num_classes) if config.patch_head else None
        self.grad_checkpointing = False
        self._chosen: Tensor | None = None  # in a view of ``restricted_to`` alone

    @property
    def patches(self) -> slice:
        """Where the patches of an image of the model's own size lie in the sequence."""
        return self.patches_of(self.grid)

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
        tokens = {"class_tokens", "pos_embed"} | ({"register_token"} if self.register_token is not None else set())
        return tokens | gates

    def set_grad_checkpointing(self, *, enable: bool = True) -> None:
        """In training no activation inside a block is kept, which costs about a third more time; the name is timm's.

        Chen et al., "Training deep nets with sublinear memory cost", 2016. Loss and gradients stay the same: each block
        runs a second time in the backward pass, with the gates and the dropped paths of the first.
        """
        self.grad_checkpointing = enable

    def restricted_to(self, classes: Tensor) -> ClassTokenViT:
        """A view on this model, with the same weights, whose sequence holds the class tokens of some classes only.

        Its classes are these: ``num_classes`` is K, and logits, class maps and patch scores come in their order. The
        tokens that are left out count as zeros in front of the head, which is what masking shows it in training.

        Args:
            classes: for each image of the batches that the view is to read, indices of K classes, (B, K).
        """
        view = copy.copy(self)
        view.num_classes, view._chosen = classes.shape[1], classes
        return view

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches, (h0, w0), of images (B, channels, H, W).

        Raises:
            ModelError: another number of channels than the model's, or sides that are no multiple of the patch.
        """
        channels, height, width = images.shape[1:]
        if channels != self.in_channels:
            raise ModelError(f"the model takes images of {self.in_channels} channels, not {channels}")
        _check_image_size((height, width), self.patch_size)
        return height // self.patch_size, width // self.patch_size

    def patches_of(self, grid: tuple[int, int]) -> slice:
        """Where the patches of such a grid lie in the sequence."""
        return slice(self.num_classes, self.num_classes + grid[0] * grid[1])

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classes, (B, C), of normalised images (B, channels, H, W); no class token is masked.

        Raises:
            ModelError: images that the model cannot read; see ``grid_of``.
        """
        return self.classify(self.encode(self.embed(images)))

    def training_logits(
        self,
        images: Tensor,
        present: Tensor,
        *,
        masking_ratio: float,
        generator: torch.Generator | None = None,
        gate_generator: torch.Generator | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> TrainingLogits:
        """Logits of a training batch with and without class-token masking, from one encoding.

        Args:
            images: (B, channels, H, W), normalised.
            present: classes each image has, (B, C) bool.
            masking_ratio: masking probability of an absent class, 0 <= ratio < 1.
            generator: source of the masking draws, the same in all processes.
            gate_generator: source of the gate samples, the same in all processes.
            rank: number of this process; see ``mask_absent_tokens``.
            world: how many share the batch.

        Raises:
            ModelError: images that the model cannot read; see ``grid_of``.
        """
        tokens = self.encode(self.embed(images), gate_generator=gate_generator)
        classes = self.norm(tokens[:, : self.num_classes])
        masked = mask_absent_tokens(classes, present, masking_ratio, generator, rank=rank, world=world)
        with torch.no_grad():
            unmasked = self.head(classes)
        scores = None
        if self.patch_head is not None:
            scores = pool_by_rank(self.patch_head(self.norm(tokens[:, self.patches_of(self.grid_of(images))])))
        return TrainingLogits(self.head(masked), unmasked, scores)

    def embed(self, images: Tensor) -> Tensor:
        """The sequence that enters the first block, (B, C + P + 1, D)."""
        positions = self._positions(self.grid_of(images))
        classes: Tensor = self.class_tokens
        if self._chosen is not None:
            others = positions[:, classes.shape[1] :].expand(len(images), -1, -1)
            positions = torch.cat([positions[0, self._chosen], others], dim=1)
            classes = classes[0, self._chosen]
        tokens = [classes.expand(len(images), -1, -1), self.patch_embed(images)]
        if self.register_token is not None:
            tokens.append(self.register_token.expand(len(images), -1, -1))
        return cast("Tensor", self.norm_pre(torch.cat(tokens, dim=1) + positions))

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Positions of all classes, such a grid of patches and the register, (1, C + P + 1, D), part of the graph."""
        if grid == self.grid:
            return self.pos_embed
        classes, own = self.class_tokens.shape[1], self.grid[0] * self.grid[1]
        before, positions, after = self.pos_embed.tensor_split((classes, classes + own), dim=1)
        # A position is a code, not a picture: the plain interpolation keeps its values, the antialiased one blurs them.
        patches = resample_abs_pos_embed(positions, list(grid), list(self.grid), num_prefix_tokens=0, antialias=False)
        return torch.cat([before, patches, after], dim=1)

    def encode(
        self,
        tokens: Tensor,
        *,
        start: int = 0,
        stop: int | None = None,
        gate_generator: torch.Generator | None = None,
    ) -> Tensor:
        """Runs the blocks ``start`` to ``stop`` (exclusive; None: to the end), (B, N, D) -> (B, N, D).

        Each block's gates are drawn before it runs and handed to it: a block that runs again in the backward pass must
        not draw anew.
        """
        again = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        for block, attention in zip(self.blocks[start:stop], self.attentions[start:stop], strict=True):
            gate = attention.sample_gate(gate_generator)
            if again:
                tokens = checkpoint(_run_block, block, tokens, gate, use_reentrant=False)
            else:
                tokens = _run_block(block, tokens, gate)
        return tokens

    def classify(self, tokens: Tensor) -> Tensor:
        """Logits (B, C) from the last block's output (B, N, D)."""
        classes = self.norm(tokens[:, : self.num_classes])
        return cast("Tensor", self.head(classes, self._chosen))

    def patch_scores(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The patch head's logits of every patch, (B, C, h0, w0), from the last block's output (B, N, D).

        Args:
            tokens: the last block's output.
            grid: of the images' patches; see ``grid_of``.
        """
        patches = self.norm(tokens[:, self.patches_of(grid)])
        scores = cast("PatchHead", self.patch_head)(patches, self._chosen)
        return cast("Tensor", scores.transpose(1, 2).reshape(len(tokens), -1, *grid))

    @torch.inference_mode()
    def attention_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The paper's aggregate map A_c of all blocks, (B, C, h0, w0), and logits (B, C), without gradient."""
        maps, tokens = self.class_attention(images)
        return maps, self.classify(tokens)

    @torch.inference_mode()
    def class_attention(self, images: Tensor, *, start: int = 0) -> tuple[Tensor, Tensor]:
        """Attention of class token c to the patches from block ``start`` on, no gradient.

        Summed over the blocks, averaged over the original heads, closed ones counting zero, so that the gated and
        the physically pruned model give the same map. Nothing is renormalised.

        Returns:
            Maps (B, C, h0, w0), non-negative, and the last block's output (B, N, D).
        """
        grid = self.grid_of(images)
        patches = self.patches_of(grid)
        tokens = self.encode(self.embed(images), stop=start)
        total = tokens.new_zeros(len(images), self.num_classes, grid[0] * grid[1])
        for block, attention in enumerate(self.attentions[start:], start=start):
            with record_class_rows([attention], self.num_classes) as recorded:
                tokens = self.encode(tokens, start=block, stop=block + 1)
            for rows in recorded:
                total += rows[..., patches].sum(dim=1) / self.original_heads
        return total.reshape(len(images), -1, *grid), tokens


def _run_block(block: nn.Module, tokens: Tensor, gate: Tensor | None) -> Tensor:
    """One block under these values of its gates."""
    with cast("GatedAttention", block.attn).holding_gate(gate):
        return cast("Tensor", block(tokens))


def _build_backbone(config: ModelConfig, in_channels: int) -> VisionTransformer:
    """Timm's model of that name and those sizes, with pretrained weights adapted to the channels and the grid."""
    _check_backbone(config.backbone)
    sizes = {name: getattr(config, name) for name in ("patch_size", "depth", "embed_dim", "num_heads")}
    given = {name: size for name, size in sizes.items() if size is not None}
    vit = create_vit(
        config.backbone,
        config.pretrained,
        given,
        what="backbone",
        parameter="model.pretrained",
        img_size=config.size,
        in_chans=in_channels,
        dynamic_img_size=False,
        drop_path_rate=config.drop_path,
    )
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
    return GatedAttention(attention, HardConcreteGate(attention.num_heads, gates))


def _start_token(pretrained: Tensor | None, count: int, width: int) -> Tensor:
    """Start of ``count`` tokens, (1, count, D): copies of the first pretrained one plus noise, or random."""
    if pretrained is None:
        return nn.init.trunc_normal_(torch.empty(1, count, width), std=RANDOM_STD)
    token = pretrained.detach()[:, :1]
    return token + NOISE * token.std() * torch.randn(1, count, width)


def _start_positions(vit: VisionTransformer, num_classes: int, registers: int, *, copy: bool) -> Tensor:
    """Start of the positions, (1, N, D): patches as timm has them, classes copy the first one or are random."""
    positions = cast("Tensor", vit.pos_embed).detach()
    classes = _start_token(positions if copy else None, num_classes, vit.embed_dim)
    register = _start_token(None, registers, vit.embed_dim)
    return torch.cat([classes, positions[:, -vit.patch_embed.num_patches :], register], dim=1)
