"""The classifier on disk, with its gates or pruned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.folder import check_kind, read_model, write_model

__all__ = ["load_classifier", "save_classifier"]


def save_classifier(folder: Path, model: ClassTokenViT, *, classes: ClassTable, inputs: InputSpec) -> None:
    """Writes a gated or pruned classifier; see ``write_model``."""
    about = {
        # The weights are all in the file: the backbone's pretrained ones are not needed again.
        "model": model.config.model_copy(update={"pretrained": False}).model_dump(mode="json"),
        "gates": model.gates_config.model_dump(mode="json"),
        "num_classes": model.num_classes,
        "in_channels": model.in_channels,
        "kept_heads": None if model.gates else model.kept_heads,
    }
    write_model(folder, model, classes=classes, inputs=inputs, about=about)


def load_classifier(folder: Path) -> tuple[ClassTokenViT, ClassTable, InputSpec]:
    """Rebuilds what ``save_classifier`` wrote; see ``read_model``.

    Raises:
        ArtifactError: a file is missing, damaged, of another format, or the two do not belong together.
    """
    check_kind(folder, "classifier")
    return read_model(folder, _rebuild)


def _rebuild(about: Mapping[str, Any], classes: ClassTable, inputs: InputSpec) -> ClassTokenViT:
    """The model without values: nothing is drawn at random only to be overwritten."""
    with torch.device("meta"):
        model = ClassTokenViT(
            ModelConfig.model_validate(about["model"]),
            GatesConfig.model_validate(about["gates"]),
            num_classes=about["num_classes"],
            in_channels=about["in_channels"],
        )
        if about["kept_heads"] is not None:
            for attention, heads in zip(model.attentions, about["kept_heads"], strict=True):
                attention.keep_heads(heads)
    return model
