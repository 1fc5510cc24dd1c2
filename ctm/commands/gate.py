"""``ctm gate``: whether a run is good enough."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctm.commands.options import Overrides, ParamsFile
from ctm.errors import ParamsError
from ctm.params import load_params
from ctm.runtime.outputs import write_text
from ctm.stages import STAGES

__all__ = ["gate"]


def gate(
    metrics: Annotated[Path, typer.Option("--metrics", metavar="FILE", help="The run's metrics.")] = STAGES[
        "evaluate"
    ].metrics,
    against: Annotated[
        str | None, typer.Option("--against", metavar="REVISION", help="Compare with the file in this git revision.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE", help="Compare with this file instead of a revision.")
    ] = None,
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    table: Annotated[
        Path | None, typer.Option("--table", metavar="FILE", help="Write what is printed to a file as well.")
    ] = None,
) -> None:
    """Say whether a run is good enough (evaluate.gate); exit code 1 if it is not."""
    from ctm.evaluation.gate import check_gate, gate_table, metrics_at
    from ctm.metrics import read_metrics

    if against and baseline:
        raise ParamsError("--against and --baseline both name what to compare with: give one of them.")
    wanted, found = load_params(params, overrides).evaluate.gate, read_metrics(metrics)
    before = metrics_at(against, metrics) if against else read_metrics(baseline) if baseline else None
    result = check_gate(found, before, wanted)
    text = gate_table(result, against=against or (baseline.name if baseline else "baseline"))
    typer.echo(text, nl=False)
    if table:
        write_text(table, text)
    if not result.passed:
        raise typer.Exit(1)
