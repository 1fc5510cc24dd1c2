"""``ctm sync``: dvc.yaml from the stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import ctm
from ctm.errors import ParamsError
from ctm.runtime.outputs import write_text
from ctm.stages import STAGES
from ctm.sync import dvc_yaml

__all__ = ["sync"]


def sync(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if dvc.yaml is not up to date.")] = False,
) -> None:
    """Write dvc.yaml from the stages."""
    outside = not Path("ctm/__init__.py").is_file()
    path, text = Path("dvc.yaml"), dvc_yaml(STAGES.values(), installed=ctm.__version__ if outside else None)
    current = path.read_text(encoding="utf-8") if path.is_file() else None
    if check and current != text:
        raise ParamsError(f"{path} is not what the stages say. Run `ctm sync` and commit the result.")
    if current != text:
        write_text(path, text)
    typer.echo(f"{path} is up to date")
