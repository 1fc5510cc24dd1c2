"""Parameters of the class-token classifier: its backbone and its head gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ctm.stage import Config

__all__ = ["GatesConfig", "ImageSize", "ModelConfig", "PruneHeadsConfig", "height_width"]

Positive = Annotated[int, Field(ge=1)]

ImageSize = Positive | tuple[Positive, Positive]
"""Pixels: one number for a square, as in timm, or height and width."""


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels."""
    return (size, size) if isinstance(size, int) else size


class ModelConfig(Config):
    """Which Vision Transformer of timm the classifier stands on, and for which image size."""

    backbone: str = "vit_base_patch16_224"
    """Name of a timm Vision Transformer, such as vit_base_patch16_224 or vit_small_patch14_dinov2."""

    image_size: ImageSize = 224
    """Height and width in pixels that images are resized to; one number: a square. A multiple of the patch size."""

    patch_size: Positive | None = None
    """Side of a patch in pixels; null: the backbone's own."""

    depth: Positive | None = None
    """Number of transformer blocks; null: the backbone's own."""

    embed_dim: Positive | None = None
    """Width of a token, a multiple of the number of heads; null: the backbone's own."""

    num_heads: Positive | None = None
    """Attention heads of each block; null: the backbone's own. The paper uses 16."""

    pretrained: bool | str = False
    """false: random start; true: timm's weights of this backbone (downloaded); or the path of a .safetensors file."""

    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth in training: probability that the last block is skipped, rising linearly from 0 at the first."""

    patch_head: bool = False
    """Trains a second classifier on the patch tokens, which the map strategies cam and fused read."""

    head: Literal["dense", "diagonal"] = "dense"
    """dense: the paper's one layer from all C class tokens to C logits, C²·D weights; diagonal: each logit from its own
    class token alone, C·D weights, for data sets of many classes (Query2Label 2021)."""

    register_token: bool = True
    """One token more that belongs to no class and no patch; false only to see what it is worth."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return height_width(self.image_size)

    @property
    def weights_file(self) -> Path | None:
        """The local file of pretrained weights, if one is named."""
        return Path(self.pretrained) if isinstance(self.pretrained, str) else None


class GatesConfig(Config):
    """The hard concrete distribution of the head gates (Louizos et al. 2018; Voita et al. 2019)."""

    initial: float = 2.5
    """Gate logit at the start; 2.5 starts every head open. Near 0 half of the heads start shut."""

    beta: Annotated[float, Field(gt=0)] = 0.33
    """Temperature of the concrete distribution."""

    gamma: Annotated[float, Field(lt=0)] = -0.1
    """Lower end of the stretched interval."""

    zeta: Annotated[float, Field(gt=1)] = 1.1
    """Upper end of the stretched interval."""

    hard: bool = True
    """true: sampled gates are rounded to 0 or 1 with a straight-through gradient; false: they stay between 0 and 1
    in training. In evaluation a gate is always 0 or 1."""


class PruneHeadsConfig(Config):
    """How strictly the pruned model is held against the gated one before it is written."""

    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Largest absolute difference of logits and class-token maps between the two models (fp32)."""

    check_images: Positive = 32
    """Images of the val split on which the two are compared and timed."""
