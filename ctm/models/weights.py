"""Pretrained weights of timm's models: a wrong file must not pass for a start from random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ctm.errors import ModelError

__all__ = ["DOWNLOAD_HINT", "check_weights", "create_vit"]

DOWNLOAD_HINT = "Without network, give the path of a .safetensors file with the weights instead of true."


def create_vit(
    name: str, pretrained: bool | str, sizes: Mapping[str, Any], *, what: str, parameter: str, **fixed: Any
) -> nn.Module:
    """Builds one of timm's Vision Transformers without its head, its weights adapted to the channels and the grid.

    Args:
        name: of the model.
        pretrained: False, True for the published weights, or the path of a safetensors file.
        sizes: arguments of ``timm.create_model`` that a user has given.
        what: the model in messages.
        parameter: name of the parameter ``pretrained``.
        fixed: the other arguments.

    Raises:
        ModelError: the sizes do not go together, or the weights are missing or do not fit.
    """
    arguments = {"num_classes": 0, **fixed, **sizes}
    overlay: dict[str, Any] = {}
    try:
        if isinstance(pretrained, str):
            with torch.device("meta"):
                skeleton = timm.create_model(name, **arguments)
            check_weights(pretrained, skeleton, parameter=parameter)
            overlay["pretrained_cfg_overlay"] = {"file": pretrained}
        return timm.create_model(name, pretrained=bool(pretrained), **arguments, **overlay)
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
        hint = f" {DOWNLOAD_HINT}" if pretrained is True else ""
        raise ModelError(
            f"{what} {name!r} cannot be built with {dict(sizes) or 'its own sizes'} and pretrained={pretrained!r}: "
            f"{error}.{hint}"
        ) from error


def check_weights(path: str, model: nn.Module, *, parameter: str) -> None:
    """Checks that a safetensors file holds most of the weights of ``model``.

    Args:
        path: file that is to be loaded.
        model: what it is to be loaded into, built without it.
        parameter: name of the parameter that gave the path.

    Raises:
        ModelError: the file is missing, is no safetensors file, or holds less than half of the model's weights.
    """
    if not path.endswith(".safetensors"):
        raise ModelError(f"{parameter}: {path!r} is no .safetensors file; convert the weights first.")
    if not Path(path).is_file():
        raise ModelError(f"{parameter}: {path!r} does not exist; correct it or set it to false.")
    try:
        with safe_open(path, framework="pt") as file:
            held = {name.replace(".", "_") for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{parameter}: {path!r} is damaged or no safetensors file ({error}).") from error
    # Encoders that give their features rename "stages.0" to "stages_0".
    wanted = [name for name, _ in model.named_parameters()]
    found = [name for name in wanted if name.replace(".", "_") in held]
    if 2 * len(found) < len(wanted):
        raise ModelError(
            f"{parameter}: {path!r} holds {len(found)} of the model's {len(wanted)} weights: it belongs to another "
            f"model. It has {', '.join(sorted(held)[:3])}, …; wanted are {', '.join(wanted[:3])}, …"
        )
