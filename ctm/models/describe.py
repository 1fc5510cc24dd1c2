"""Facts about a classifier without building its weights."""

from __future__ import annotations

import torch

from ctm.data.config import DatasetConfig
from ctm.errors import ParamsError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig

__all__ = ["describe_model"]


def describe_model(model: ModelConfig, gates: GatesConfig, dataset: DatasetConfig) -> dict[str, int | list[int]]:
    """Counts of the classifier that the parameters ask for; nothing is allocated.

    Returns:
        ``parameters``; ``tokens`` in the sequence (C + P + 1); ``heads`` and ``depth`` (heads a block, blocks);
        ``embed_dim``; ``image_size``, as timm has it: one number for a square, else [height, width]; ``patch_size``;
        ``classes`` with a token; ``channels``.

    Raises:
        ParamsError: classes or channels are not given and would have to be read from the data.
        ModelError: there is no such model.
    """
    if dataset.classes is None or dataset.channels is None:
        missing = "classes" if dataset.classes is None else "channels"
        raise ParamsError(f"dataset.{missing} is null: the model's size cannot be told without it. Set it.")
    num_classes = len(dataset.classes) - (dataset.background is not None)
    with torch.device("meta"):
        built = ClassTokenViT(
            model.model_copy(update={"pretrained": False}), gates, num_classes=num_classes, in_channels=dataset.channels
        )
    height, width = built.image_size
    return {
        "parameters": sum(parameter.numel() for parameter in built.parameters()),
        "tokens": built.pos_embed.shape[1],
        "heads": built.original_heads,
        "depth": len(built.blocks),
        "embed_dim": built.pos_embed.shape[2],
        "image_size": height if height == width else [height, width],
        "patch_size": built.patch_size,
        "classes": num_classes,
        "channels": dataset.channels,
    }
