"""``ctm compare-runs``: several runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ctm.errors import ParamsError
from ctm.kubeflow import Task
from ctm.runtime.outputs import write_text

__all__ = ["compare_runs"]


def compare_runs(
    report: Annotated[Path, typer.Option("--report", metavar="FILE", help="Where to write the page.")],
    metrics: Annotated[Path, typer.Option("--metrics", metavar="FILE", help="Where to write the figures.")],
    runs: Annotated[
        list[str], typer.Option("--run", metavar="NAME=FILE", help="A run's name and its metrics; repeatable.")
    ] = [],
    columns: Annotated[
        list[str], typer.Option("--column", metavar="NAME", help="A figure to show; repeatable; left out: Table 8's.")
    ] = [],
    names: Annotated[
        str | None, typer.Option("--names", metavar="JSON", help="In Kubeflow: the names of the runs, as a JSON list.")
    ] = None,
    executor_input: Annotated[
        str | None,
        typer.Option("--executor-input", metavar="JSON", help="In Kubeflow: the runs' metrics are its list."),
    ] = None,
) -> None:
    """Set several runs side by side: one page, and one file with the figures of each."""
    from ctm.evaluation import comparison

    task = Task.parse(executor_input) if executor_input else None
    if bool(task) != bool(names) or (task and runs):
        raise ParamsError("give --run NAME=FILE for each run; --names and --executor-input go together, in Kubeflow.")
    found = comparison.listed_runs(names or "[]", task.paths("metrics")) if task else comparison.named_runs(runs)
    chosen = tuple(map(comparison.column, columns))
    figures = comparison.compare_runs(found, columns=chosen)
    if columns and (unknown := comparison.unknown_columns(found, chosen)):
        raise ParamsError(f"no run has the figure {', '.join(unknown)}: see metrics/evaluate.json for the names.")
    write_text(report, comparison.comparison_page(found, columns=chosen))
    write_text(metrics, json.dumps(figures, indent=2) + "\n")
    if task:
        task.write_report(figures, port="table")
