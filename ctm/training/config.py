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
    """Images in one forward pass of one process."""

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

    @model_validator(mode="after")
    def _warmup_ends(self) -> TrainingConfig:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) is more than epochs ({self.epochs})")
        return self


class TrainClassifierConfig(TrainingConfig):
    """How the class-token transformer is trained on image-level labels."""

    head_lr: Rate = 1e-3
    """Peak learning rate of the dense head, the class tokens and the register token."""

    gate_lr: Rate = 0.02
    """Peak learning rate of the head gates."""

    masking_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Probability p that the class token of an absent class is masked in a training step."""

    pruning_weight: Annotated[float, Field(ge=0)] = 0.01
    """The paper's lambda: weight of the summed probabilities that the head gates are open."""

    pruning_warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Epochs over which the pruning weight rises linearly from 0."""


def _whole(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class TrainSegmenterConfig(TrainingConfig):
    """How the segmenter is built and trained on pseudo-masks alone."""

    decoder_lr: Rate | None = None
    """Peak learning rate of the decoder where it differs from the encoder's, which is lr; null: the same."""

    arch: str = "unet"
    """Architecture of segmentation-models-pytorch, such as unet, fpn, deeplabv3plus, dpt."""

    encoder: str = "resnet18"
    """Encoder of segmentation-models-pytorch; timm's encoders carry the prefix tu-."""

    pretrained: bool | str = False
    """Start of the encoder: false (random), true (the encoder's own published weights), or the path of a safetensors
    file with the weights of a tu- encoder."""

    options: dict[str, Any] = Field(default={})
    """Further arguments of the architecture, such as decoder_channels or patch_size."""

    @field_validator("options")
    @classmethod
    def _whole_numbers(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Kubeflow's structs hold 3 as 3.0, which no architecture takes for a depth, and keep no order."""
        return {name: _whole(value) for name, value in sorted(options.items())}

    image_size: ImageSize | None = None
    """Size at which the segmenter sees images, in pixels: one number or [height, width]; null: the classifier's."""

    @property
    def weights_file(self) -> Path | None:
        """The local file of pretrained weights, if one is named."""
        return Path(self.pretrained) if isinstance(self.pretrained, str) else None
