"""A model on disk: ``model.safetensors`` with the weights, and ``model.json`` with all that rebuilds it. No pickles."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.errors import ArtifactError, CtmError, StorageError

__all__ = ["ModelKind", "check_kind", "read_model", "write_model"]

ModelKind = Literal["segmenter", "classifier"]

M = TypeVar("M", bound=nn.Module)

MARKS: dict[str, ModelKind] = {"spec": "segmenter", "gates": "classifier"}
"""What only the ``model.json`` of one kind of model has."""

WRITERS: dict[ModelKind, str] = {
    "segmenter": "train-segmenter writes one",
    "classifier": "train-classifier and prune-heads write one",
}

FORMAT = 1
"""Version of ``model.json``."""


def write_model(
    folder: Path, model: nn.Module, *, classes: ClassTable, inputs: InputSpec, about: Mapping[str, Any]
) -> None:
    """Writes a model into ``folder``, which is made if it is missing; the same model gives the same bytes.

    Args:
        folder: where ``model.safetensors`` and ``model.json`` go.
        model: whose weights are written.
        classes: the classes that it tells apart.
        inputs: how images are prepared for it.
        about: JSON values from which ``read_model``'s ``build`` makes the model without its weights.

    Raises:
        StorageError: the disk does not take the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        save_file(tensors, folder / "model.safetensors")
    except SafetensorError as error:
        raise StorageError(f"a model cannot be written to {folder} ({error}): make room and run it again.") from error
    description = {"format": FORMAT, "classes": asdict(classes), "inputs": inputs.to_dict(), **about}
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def read_model(
    folder: Path, build: Callable[[Mapping[str, Any], ClassTable, InputSpec], M]
) -> tuple[M, ClassTable, InputSpec]:
    """Rebuilds what ``write_model`` wrote, on the CPU and in evaluation mode; no other file is needed.

    Args:
        folder: where the model lies.
        build: makes the model without its weights from the contents of ``model.json``.

    Raises:
        ArtifactError: a file is missing, damaged, of another format, or the two do not belong together.
    """
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, this ctm reads {FORMAT}")
        classes = ClassTable(tuple(about["classes"]["names"]), about["classes"]["background"])
        inputs = InputSpec.from_dict(about["inputs"])
        model = build(about, classes, inputs)
        model.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    except (CtmError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise ArtifactError(
            f"{folder} holds no readable model ({' '.join(str(error).split())}). Run the stage that writes it again."
        ) from error
    return model.eval(), classes, inputs


def check_kind(folder: Path, wanted: ModelKind, *, hint: str = "") -> None:
    """Checks that a folder holds a model of one kind and not of the other.

    Args:
        folder: where the model lies.
        wanted: the kind.
        hint: what else to do where it holds the other kind.

    Raises:
        ArtifactError: it does not.
    """
    name_one = f"Name the folder of a {wanted}: {WRITERS[wanted]}{hint and ', '}{hint}."
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        found = next((kind for mark, kind in MARKS.items() if mark in about), None)
    except (OSError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder} holds no readable model ({error}). {name_one}") from error
    if found != wanted:
        raise ArtifactError(f"{folder} holds {f'a {found}' if found else 'another model'}, no {wanted}. {name_one}")
