"""Results of a sweep as files to keep: a table, the curve over sparsity, and all figures of every run."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ctm.evaluation.comparison import Column, Row, curve_svg
from ctm.runtime.outputs import write_text
from pipelines.experiments import SEED, Experiment, closes_heads, grouped, rows, varied
from pipelines.portable import portable
from pipelines.results_page import Origin, results_page
from pipelines.working_tree import git

__all__ = ["FOLDER", "origin_of", "write_results"]

FOLDER = Path("docs/results")
CODE = ("ctm", "dvc.yaml")
"""What decides, with parameters and data, what a run computes."""


def write_results(
    name: str, experiments: Sequence[Experiment], *, columns: Sequence[Column], origin: Origin, folder: Path = FOLDER
) -> list[Path]:
    """Writes ``NAME-DATASET.md``, ``.json`` with all figures of every run and, for a sweep of pruning, ``.svg``.

    Args:
        name: what is measured, such as table8.
        experiments: at least one that has succeeded.
        columns: the figures of the table.
        origin: where they come from.
        folder: where the files are written.

    Returns:
        The files.
    """
    stem = f"{name}-{Path(str(experiments[0].params.get('dataset.root', 'data'))).name}"
    files = {".json": json.dumps(_record(experiments, columns, origin), indent=1) + "\n"}
    if closes_heads(experiments) and (svg := curve_svg(rows(experiments))):
        files[".svg"] = svg
    files[".md"] = results_page(stem, experiments, columns=columns, origin=origin, curve=".svg" in files)
    for suffix, text in files.items():
        write_text(folder / f"{stem}{suffix}", text)
    return [folder / f"{stem}{suffix}" for suffix in files]


def origin_of(
    sweep: str, experiments: Sequence[Experiment], *, command: Sequence[str], started: datetime, collected: bool = False
) -> Origin:
    """Where the results of a sweep come from.

    Args:
        sweep: DVC's name of it.
        experiments: its experiments.
        command: the words of the command line that made the results.
        started: when the sweep was queued.
        collected: the experiments ran earlier, and perhaps elsewhere: this machine is not theirs.
    """
    done = [experiment for experiment in experiments if experiment.state == "success"]
    ends = [experiment.ended for experiment in done if experiment.ended]
    return Origin(
        sweep=sweep,
        command=shlex.join([Path(command[0]).name, *map(portable, command[1:])]),
        revision=_revision(done),
        started=started,
        minutes=round((max(ends) - started).total_seconds() / 60, 1) if ends else None,
        machine="machine unknown (collected later)" if collected else _machine(),
    )


def _record(experiments: Sequence[Experiment], columns: Sequence[Column], origin: Origin) -> dict[str, Any]:
    """Everything that the JSON file says."""
    differ = set(varied(experiments))
    groups = grouped(experiments)
    return {
        "sweep": origin.sweep,
        "command": origin.command,
        "revision": origin.revision,
        "started": origin.started.isoformat(),
        "minutes": origin.minutes,
        "machine": origin.machine,
        "rows": [
            {"name": line.name, "runs": len(line.runs), "figures": {c.name: _numbers(line, c.name) for c in columns}}
            for line in rows(experiments)
        ],
        "runs": [
            {
                "name": experiment.name,
                "row": name,
                "state": experiment.state,
                SEED: experiment.params.get(SEED),
                "params": _params(experiment.params, differ),
                "metrics": dict(experiment.metrics),
            }
            for name, group in groups
            for experiment in group
        ],
        "params": _params(experiments[0].params, set(experiments[0].params) - differ),
    }


def _numbers(line: Row, name: str) -> dict[str, float | int | None] | None:
    over = line.spread(name)
    return {"mean": over.mean, "sd": over.sd, "n": over.count} if over else None


def _params(params: Mapping[str, Any], wanted: set[str]) -> dict[str, Any]:
    """The wanted parameters; a path of this machine is cut to its last name."""
    found = {name: held for name, held in params.items() if name in wanted}
    return {name: portable(held) if isinstance(held, str) else held for name, held in found.items()}


def _revision(done: Sequence[Experiment]) -> str | None:
    """The commit that the runs started from, with a mark if they ran code that it does not hold.

    DVC commits the tree of an experiment, with the changes that were not committed.
    """
    known = next((experiment for experiment in done if experiment.base and experiment.revision), None)
    if known is None:
        return None
    changed = git("diff", "--name-only", known.base, known.revision, "--", *CODE).stdout
    return known.base[:7] + ("-dirty" if changed else "")


def _machine() -> str:
    """This machine in words: its GPU if torch sees one, and its CPU cores."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = [torch.cuda.get_device_name(0)] if torch.cuda.is_available() else []
    return ", ".join([*gpu, f"{cores} CPU core{'' if cores == 1 else 's'}"])
