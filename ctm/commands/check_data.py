"""``ctm check-data``: what is wrong with raw data, before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctm.commands.options import Overrides, ParamsFile, Workers
from ctm.params import load_params
from ctm.runtime.context import available_cores

__all__ = ["check_data"]


def check_data(
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    raw: Annotated[str | None, typer.Option("--raw", help="Raw data; left out: dataset.root.")] = None,
    workers: Workers = available_cores(),
) -> None:
    """Read and check every file of the raw data and write nothing; exit code 1 if preprocess would fail."""
    from ctm.data.check import check_dataset
    from ctm.data.datasets import open_dataset
    from ctm.data.findings import all_problems, findings_lines
    from ctm.runtime.storage import open_tree

    chosen = load_params(params, overrides)
    tree = open_tree(raw or chosen.dataset.root)
    dataset = open_dataset(chosen.dataset, tree)
    found = check_dataset(dataset, tree, workers=workers)
    typer.echo(f"{chosen.dataset.format} in {tree.uri}")
    typer.echo("\n".join(findings_lines(dataset, found, listed=None)))
    if chosen.preprocess.on_error == "fail" and all_problems(dataset, found):
        raise typer.Exit(1)
