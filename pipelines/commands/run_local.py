"""``ctm-pipeline run-local``: a compiled pipeline on this machine's Docker engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctm.commands.options import Overrides, ParamsFile
from ctm.params import load_params
from pipelines.options import Parts, Pipeline

__all__ = ["run_local"]

PLACE = Path(".ctm/kfp-local")


def run_local(
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    pipeline: Pipeline = "ctm",
    images: Annotated[
        list[str], typer.Option("--image", metavar="REF", help="As for submit; left out: those of `make images`.")
    ] = [],
    parts: Parts = None,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for what the stages write.")] = PLACE
    / "output",
    checkpoints: Annotated[
        Path, typer.Option("--checkpoints", metavar="DIR", help="Folder for the state of unfinished runs.")
    ] = PLACE / "checkpoints",
) -> None:
    """Run a pipeline on this machine's Docker, every stage in its container."""
    from pipelines.local import run_pipeline_here

    given = {} if parts is None else {"parts": parts}
    loaded = load_params(params, overrides)
    report = run_pipeline_here(pipeline, loaded, output=output, images=images, checkpoints=checkpoints, **given)
    typer.echo(f"report: {report}")
