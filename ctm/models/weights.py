"""Checks of pretrained weights: a wrong file must not pass for a start from random weights."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from ctm.errors import ModelError

__all__ = ["DOWNLOAD_HINT", "check_weights"]

DOWNLOAD_HINT = "Without network, give the path of a .safetensors file with the weights instead of true."


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
