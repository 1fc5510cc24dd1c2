"""Parameters of the two trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ctm.data.config import AugmentConfig
from ctm.models.config import ImageSize
from ctm.stage import Config

__all__ = ["TrainClassifierConfig", "TrainSegmenterConfig", "TrainingConfig"]

Rate = Annotated[float, Field(gt=0)]


class TrainingConfig(Config):
    """What both trainings share: AdamW, a cosine schedule with linear warm-up, and which epoch is kept."""

    epochs: Annotated[int, Field(ge=1)]
    """Passes over the train split."""

    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images in one forward and backward pass of all processes together: each of four GPUs takes a quarter of them."""

    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients are summed before the optimiser steps."""

    lr: Rate = 1e-4
    """Peak learning rate of the backbone (classifier) or of the encoder (segmenter)."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """AdamW's decay rates; the paper's values."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """AdamW's weight decay; never on gates, tokens, position embeddings, norms and biases."""

    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Epochs over which the learning rates rise linearly from 0; after them they fall on a cosine to 0."""

    clip_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient; null: no clipping."""

    keep: Literal["best", "last"] = "last"
    """Which epoch becomes the stage's output: the last, or the best on the val split."""

    augment: AugmentConfig = AugmentConfig()
    """Random changes of the training images."""

    compile: bool = False
    """Compiles the network (torch.compile), which takes a minute or so at the start and pays in long trainings on a
    GPU; where that is not possible it trains as it is, with a warning."""

    grad_checkpointing: bool = False
    """Computes the activations of each block a second time in the backward pass instead of keeping them: for networks
    or images that do not fit into memory; a step takes about a third longer."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> TrainingConfig:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) is more than epochs ({self.epochs})")
        return self


class TrainClassifierConfig(TrainingConfig):
    """How the class-token transformer is trained on image-level labels. Heads are closed in one of two ways: gates that
    learn under the pruning weight, or a given sparsity."""

    head_lr: Rate = 1e-3
    """Peak learning rate of the head, the patch head, the class tokens and the register token."""

    gate_lr: Rate = 0.02
    """Peak learning rate of the head gates."""

    masking_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Probability p that the class token of an absent class is masked in a training step."""

    masking_warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs over which the masking ratio rises linearly from 0. Masked tokens give answers away: raise this where the
    training loss falls but val_map stays at chance."""

    pruning_weight: Annotated[float, Field(ge=0)] = 0.01
    """The paper's lambda: weight of the summed probabilities that the head gates are open."""

    pruning_warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Epochs over which the pruning weight rises linearly from 0."""

    sparsity: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Fraction of all heads to close: those that the loss depends on least, one by one between the warm-up and 60 % of
    the training. It takes pruning_weight 0 and keep last; the gates are not sampled then. null: the gates learn."""

    @model_validator(mode="after")
    def _ramps_end(self) -> TrainClassifierConfig:
        for name in ("masking_warmup_epochs", "pruning_warmup_epochs"):
            if (length := getattr(self, name)) > self.epochs:
                raise ValueError(f"{name} ({length:g}) is more than epochs ({self.epochs}): it would never end")
        return self

    @model_validator(mode="after")
    def _one_way_to_close_heads(self) -> TrainClassifierConfig:
        if self.sparsity is not None and self.pruning_weight:
            raise ValueError(
                f"sparsity ({self.sparsity:g}) says how many heads close, so pruning_weight "
                f"({self.pruning_weight:g}) has no say: set it to 0, or sparsity to null"
            )
        if self.sparsity is not None and self.keep == "best":
            raise ValueError("keep: best may take an epoch before the sparsity is reached: set keep to last")
        return self


def _whole(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class TrainSegmenterConfig(TrainingConfig):
    """How the segmenter is built and trained on pseudo-masks alone."""

    supervision: Literal["pseudomasks", "truth"] = "pseudomasks"
    """What is learned. truth: the true masks of the train split, for the fully supervised upper bound that a result is
    compared with; model and metrics say so."""

    loss: Literal["ce", "sce", "bootstrap"] = "ce"
    """ce: cross-entropy. For masks that are partly wrong, sce: symmetric cross-entropy (Wang et al. 2019); bootstrap:
    a fifth of the target is the network's own decision (hard bootstrapping, Reed et al. 2015)."""

    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Pixels of the masks with less confidence are not learned; above 0 it takes
    extract_pseudomasks.confidence: true."""

    self_training: Annotated[int, Field(ge=0)] = 0
    """Further rounds, as long as the first: the segmenter's masks of the train images, of their image-level classes
    only, train a fresh one."""

    decoder_lr: Rate | None = None
    """Peak learning rate of the decoder where it differs from the encoder's, which is lr; null: the same."""

    arch: str = "unet"
    """vit (a Vision Transformer of timm with a light head), or an architecture of segmentation-models-pytorch, such as
    unet, fpn, deeplabv3plus, dpt."""

    encoder: str = "resnet18"
    """Encoder of segmentation-models-pytorch, where timm's carry the prefix tu-; with arch vit timm's name alone, such
    as vit_small_patch14_dinov2."""

    pretrained: bool | str = False
    """Start of the encoder: false (random), true (the encoder's own published weights), or the path of a safetensors
    file with the weights of an encoder of timm."""

    freeze_encoder: bool = False
    """Trains the head alone and leaves the pretrained encoder as it is."""

    options: dict[str, Any] = Field(default={})
    """Further arguments of the architecture, such as decoder_channels or patch_size; of vit: decoder_channels (256),
    blocks (1: how many of the last ones the head sees), and patch_size, depth, embed_dim, num_heads, drop_path_rate."""

    @field_validator("options")
    @classmethod
    def _whole_numbers(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Kubeflow's structs hold 3 as 3.0, which no architecture takes for a depth, and keep no order."""
        return {name: _whole(value) for name, value in sorted(options.items())}

    image_size: ImageSize | None = None
    """Size at which the segmenter sees images, in pixels: one number or [height, width]; null: the classifier's."""

    @model_validator(mode="after")
    def _go_together(self) -> TrainSegmenterConfig:
        if self.freeze_encoder and not self.pretrained:
            raise ValueError("freeze_encoder keeps the encoder as it starts, and pretrained is false: give it weights")
        if self.supervision == "truth" and self.self_training:
            raise ValueError(
                f"supervision: truth trains once on true masks, without self_training ({self.self_training}): set that "
                "to 0, or supervision to pseudomasks"
            )
        if self.supervision == "truth" and self.min_confidence:
            raise ValueError(
                f"true masks have no confidence, so min_confidence ({self.min_confidence:g}) has no say: set it to 0, "
                "or supervision to pseudomasks"
            )
        return self

    @property
    def weights_file(self) -> Path | None:
        """The local file of pretrained weights, if one is named."""
        return Path(self.pretrained) if isinstance(self.pretrained, str) else None
