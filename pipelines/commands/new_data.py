"""``ctm-pipeline new-data``: whether the raw data have changed since the run that was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctm.commands.options import Overrides, ParamsFile
from ctm.params import load_params
from ctm.runtime.storage import is_remote
from pipelines.options import Raw
from pipelines.raw_data import RECORDED, has_changed

__all__ = ["new_data"]


def new_data(
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    raw: Raw = None,
    recorded: Annotated[
        list[Path],
        typer.Option(
            "--recorded", metavar="FILE", help="Manifest of a recorded run; repeatable; left out: in models/."
        ),
    ] = list(RECORDED),
) -> None:
    """Tell whether the raw data have changed since the recorded run, as a line for $GITHUB_OUTPUT."""
    # Data that pods find at a path of their own are known here by dataset.root, as `submit` knows them.
    root = raw if raw and is_remote(raw) else load_params(params, overrides).dataset.root
    typer.echo(f"changed={str(has_changed(root, recorded)).lower()}")
