"""``ctm show``: the parameters in force."""

from __future__ import annotations

from pathlib import Path

import typer

from ctm.commands.options import Overrides, ParamsFile
from ctm.params import load_params, to_yaml

__all__ = ["show"]


def show(params: ParamsFile = Path("params.yaml"), overrides: Overrides = []) -> None:
    """Print the resolved parameters, every value with its meaning."""
    typer.echo(to_yaml(load_params(params, overrides)), nl=False)
