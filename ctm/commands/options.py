"""Options that several commands have in common, and the completion of parameter names in a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ctm.parameters import Parameter, parameters
from ctm.runtime.context import Device

__all__ = ["DeviceOption", "Overrides", "ParamsFile", "Workers", "override_option"]


def override_option(listed: Callable[[], Iterable[Parameter]] = parameters) -> Any:
    """``--set``, which completes the names of the listed parameters."""

    def complete(incomplete: str) -> list[str]:
        return [name for known in listed() if (name := f"{known.path}=").startswith(incomplete)]

    about = "Override a parameter, such as train_classifier.epochs=3; repeatable. A stage's help lists those it reads."
    return typer.Option("--set", metavar="NAME=VALUE", help=about, autocompletion=complete)


ParamsFile = Annotated[Path, typer.Option("--params", metavar="FILE", help="Parameter file.")]

Overrides = Annotated[list[str], override_option()]

Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that read and decode images.")]

DeviceOption = Annotated[Device, typer.Option("--device", help="Where to run; auto takes a GPU if there is one.")]
