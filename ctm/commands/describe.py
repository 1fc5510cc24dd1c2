"""``ctm describe``: how large a model would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ctm.commands.init import complete_preset
from ctm.commands.options import Overrides, ParamsFile
from ctm.params import load_params, load_preset

__all__ = ["describe"]


def describe(
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME", help="A preset instead of a file.", autocompletion=complete_preset),
    ] = None,
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    as_json: Annotated[bool, typer.Option("--json", help="One flat JSON object.")] = False,
) -> None:
    """Size of the classifier that the parameters ask for: parameters, tokens, heads, image and patch size in pixels."""
    from ctm.models.describe import describe_model

    chosen = load_preset(preset, overrides) if preset else load_params(params, overrides)
    facts = describe_model(chosen.model, chosen.gates, chosen.dataset)
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        typer.echo("\n".join(f"{name:<14} {value}" for name, value in facts.items()))
