"""The classifier on disk: ``model.safetensors`` with the weights and ``model.json`` with all that rebuilds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.errors import ArtifactError, CtmError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig

__all__ = ["load_classifier", "save_classifier"]

VERSION = 1
"""Version of ``model.json``."""


def save_classifier(folder: Path, model: ClassTokenViT, *, classes: ClassTable, inputs: InputSpec) -> None:
    """Writes a gated or pruned classifier into ``folder``, which is made if it is missing; deterministic bytes.

    Args:
        folder: where ``model.safetensors`` and ``model.json`` go.
        model: gated or pruned.
        classes: the classes of its tokens.
        inputs: how images are prepared for it.
    """
    description = {
        "version": VERSION,
        # The weights are all in the file: the backbone's pretrained ones are not needed again.
        "model": model.config.model_copy(update={"pretrained": False}).model_dump(mode="json"),
        "gates": model.gates_config.model_dump(mode="json"),
        "num_classes": model.num_classes,
        "in_channels": model.in_channels,
        "kept_heads": None if model.gates else model.kept_heads,
        "classes": asdict(classes),
        "inputs": inputs.to_dict(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_classifier(folder: Path) -> tuple[ClassTokenViT, ClassTable, InputSpec]:
    """Rebuilds what ``save_classifier`` wrote, on the CPU and in evaluation mode; no other file is needed.

    Raises:
        ArtifactError: a file is missing, damaged, of another version, or the two do not belong together.
    """
    description = _read_description(folder / "model.json")
    weights = folder / "model.safetensors"
    try:
        model = _rebuild(description)
        model.load_state_dict(load_file(weights), assign=True)
        classes = ClassTable(
            names=tuple(description["classes"]["names"]), background=description["classes"]["background"]
        )
        inputs = InputSpec.from_dict(description["inputs"])
    except FileNotFoundError as error:
        raise ArtifactError(f"{weights} is missing; run the stage that writes the classifier again") from error
    except (CtmError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise ArtifactError(
            f"the classifier in {folder} is damaged, or model.json and model.safetensors do not belong together; "
            f"run the stage that writes it again ({error})"
        ) from error
    return model.eval(), classes, inputs


def _read_description(path: Path) -> Mapping[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing: {path.parent} holds no classifier") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged; run the stage that writes it again ({error})") from error
    version = description.get("version") if isinstance(description, dict) else None
    if not isinstance(description, dict) or version != VERSION:
        raise ArtifactError(f"{path} has version {version!r}, this ctm reads {VERSION}; run the stage again")
    return description


def _rebuild(description: Mapping[str, Any]) -> ClassTokenViT:
    """The model without values: nothing is drawn at random only to be overwritten."""
    with torch.device("meta"):
        model = ClassTokenViT(
            ModelConfig.model_validate(description["model"]),
            GatesConfig.model_validate(description["gates"]),
            num_classes=description["num_classes"],
            in_channels=description["in_channels"],
        )
        if description["kept_heads"] is not None:
            for attention, heads in zip(model.attentions, description["kept_heads"], strict=True):
                attention.keep_heads(heads)
    return model
