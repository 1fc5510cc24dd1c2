"""``ctm-pipeline sweep``: the stages for every value of a parameter, and one report that compares the runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ctm.commands.options import Overrides, ParamsFile
from pipelines.errors import PipelineError
from pipelines.table8 import GRID

__all__ = ["sweep"]

REPORT, METRICS = Path("report/sweep.html"), Path("metrics/sweep.json")


def sweep(
    values: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE,VALUE", help="What to vary; left out: the paper's Table 8.")
    ] = [],
    runs: Annotated[
        list[str],
        typer.Option(
            "--run",
            metavar="'NAME=VALUE …'",
            help="A further run that changes these parameters and no others; repeatable; '' changes nothing.",
        ),
    ] = [],
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="SEED,SEED", help="Every run with each of these: mean and standard deviation."),
    ] = None,
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Experiments that run at a time.")] = 1,
    copy: Annotated[
        list[Path],
        typer.Option(
            "--copy",
            metavar="PATH",
            help="What the stages read and neither git nor DVC tracks, such as pretrained weights; repeatable.",
        ),
    ] = [],
    collected: Annotated[
        str | None, typer.Option("--collect", metavar="NAME", help="Run nothing; compare an earlier sweep's runs.")
    ] = None,
    figures: Annotated[
        list[str],
        typer.Option(
            "--column",
            metavar="NAME",
            help="A figure of metrics/evaluate.json to show (segmenter.val.miou); repeatable; left out: Table 8's.",
        ),
    ] = [],
    results: Annotated[
        str | None,
        typer.Option(
            "--results", metavar="NAME", help="Also write docs/results/NAME-DATASET: a table, and all figures as JSON."
        ),
    ] = None,
) -> None:
    """Run the stages for every value of a parameter in DVC's queue, and compare the runs in one report."""
    from ctm.evaluation.comparison import column, columns_of, unknown_columns
    from pipelines.experiments import rows
    from pipelines.results import origin_of, write_results
    from pipelines.sweep import collect, failures, queue, run_queued, started, write_comparison

    if collected is None:
        varied = [values or [GRID]] if values or not runs else []
        name = queue([*varied, *map(shlex.split, runs)], params=params, settings=overrides, seeds=seeds, copy=copy)
        typer.echo(f"queued as {name}")
        run_queued(name, jobs=jobs)
    else:
        name = collected
    experiments = collect(name)
    wrong = failures(experiments)
    if lines := rows(experiments):
        columns = tuple(map(column, figures)) or columns_of(lines)
        write_comparison(experiments, report=REPORT, metrics=METRICS, title=f"Sweep {name}", columns=columns)
        succeeded = sum(len(line.runs) for line in lines)
        typer.echo(f"wrote {REPORT} and {METRICS}: {succeeded} of {len(experiments)} experiments")
        if results:
            origin = origin_of(
                name, experiments, command=sys.argv, started=started(name), collected=collected is not None
            )
            written = write_results(results, experiments, columns=columns, origin=origin)
            typer.echo(f"wrote {', '.join(map(str, written))}")
        if figures and (unknown := unknown_columns(lines, columns)):
            wrong.append(f"no run has the figure {', '.join(unknown)}: see metrics/evaluate.json for the names.")
    if wrong:
        raise PipelineError("\n".join(wrong))
