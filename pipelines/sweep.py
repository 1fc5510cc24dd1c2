"""A sweep over parameters on this machine: experiments in DVC's queue, then one report that compares them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctm.evaluation.comparison import Column, compare_runs, comparison_page
from ctm.params import load_params
from ctm.runtime.outputs import write_text
from ctm.runtime.storage import is_remote
from ctm.stages import STAGES
from pipelines.errors import PipelineError
from pipelines.experiments import SEED, Experiment, closes_heads, last_error, rows
from pipelines.grids import check_grids
from pipelines.raw_data import dvc_file
from pipelines.working_tree import dvc, dvc_error, git, start_dvc

__all__ = [
    "collect",
    "failures",
    "queue",
    "run_queued",
    "started",
    "write_comparison",
]

logger = logging.getLogger("ctm.pipelines.sweep")  # below `ctm`, whose log the command line shows

PREFIX, TIME = "sweep-", "%Y%m%d-%H%M%S"
"""A sweep is called after the time, in UTC, at which it was queued."""

STAGED = "uncommitted changes exist in the index"
"""What DVC says where a file is staged and has been changed again."""

START_SECONDS = 120
"""How long DVC's queue may take to start the first experiment; on a busy machine it needs some ten seconds."""

WORKER_LOG = ".dvc/tmp/exps/celery/dvc-exp-worker-1.out"


def queue(
    grids: Sequence[Sequence[str]],
    *,
    params: Path,
    settings: Sequence[str] = (),
    seeds: str | None = None,
    copy: Iterable[Path] = (),
) -> str:
    """Puts an experiment into DVC's queue for every combination of values of every grid.

    DVC runs an experiment in a copy of what git and DVC track. Raw data that neither of them knows are copied too.

    Args:
        grids: each some texts ``section.name=value,value,…``, combined each value with each; without a text it is one
            experiment on the parameters as they are.
        params: the parameter file.
        settings: overrides of all experiments.
        seeds: ``0,1,2``: every combination with each of these; None: with the seed of ``params``.
        copy: further files and folders that git does not track and the stages read.

    Returns:
        What the names of the experiments begin with.

    Raises:
        ParamsError: a name or a value is wrong.
        PipelineError: DVC refuses.
    """
    seeded = [] if seeds is None else [f"{SEED}={seeds}"]
    check_grids([[*grid, *seeded] for grid in grids], settings, params)  # found now, and not by each experiment
    sweep = f"{PREFIX}{datetime.now(UTC):{TIME}}"
    copied = [*copy, *_untracked(load_params(params, settings).dataset.root)]
    options = [word for path in copied for word in ("--copy-paths", str(path))]
    logger.info("queueing with DVC")
    for number, grid in enumerate(grids, start=1):
        name = sweep if len(grids) == 1 else f"{sweep}-{number}"
        changes = [word for text in (*settings, *grid, *seeded) for word in ("--set-param", f"{params}:{text}")]
        done = dvc("exp", "run", "--queue", "--name", name, *options, *changes, **_environment())
        if done.returncode:
            advice = " Commit what `git status` shows as staged, and run it again." if STAGED in done.stderr else ""
            raise PipelineError(f"DVC cannot queue the sweep: {dvc_error(done.stderr)}{advice}")
    return sweep


def started(sweep: str) -> datetime:
    """When a sweep was queued: its name says it.

    Raises:
        PipelineError: this is no name of a sweep.
    """
    try:
        return datetime.strptime(sweep, f"{PREFIX}{TIME}").replace(tzinfo=UTC)
    except ValueError:
        raise PipelineError(f"{sweep} is no name of a sweep: they look like {PREFIX}20260131-235959.") from None


def run_queued(sweep: str, *, jobs: int) -> None:
    """Runs all that is in DVC's queue, ``jobs`` at a time, and returns when it has ended; its logs are shown.

    Whether an experiment has failed is not to be seen from DVC's exit code: ``collect`` tells.

    Raises:
        PipelineError: nothing of the sweep has started; DVC itself would wait for ever.
    """
    running = start_dvc("exp", "run", "--run-all", "--jobs", str(jobs), **_environment())
    try:
        running.wait(timeout=START_SECONDS)
    except subprocess.TimeoutExpired:
        if not _has_started(sweep):
            raise PipelineError(
                f"DVC has started no experiment of {sweep} in {START_SECONDS} s: the worker of its queue does not run. "
                f"{WORKER_LOG} has what it said. `dvc queue start` starts it again and `ctm-pipeline sweep --collect "
                f"{sweep}` compares the runs; `dvc queue remove --queued` empties the queue."
            ) from None
        running.wait()
    finally:
        if running.poll() is None:
            running.terminate()


def collect(sweep: str) -> list[Experiment]:
    """The experiments of a sweep, in the order of their values.

    Raises:
        PipelineError: DVC knows none of that name, or cannot list them.
    """
    done = dvc("exp", "show", "--json", **_environment())
    if done.returncode:
        raise PipelineError(f"DVC cannot list the experiments: {dvc_error(done.stderr)}")
    commits = json.loads(done.stdout)
    listed = [(entry, commit["rev"]) for commit in commits for entry in commit["experiments"] or () if entry["revs"]]
    found = {_place(sweep, entry["revs"][0]["name"] or ""): (entry, base) for entry, base in listed}
    if not (ours := sorted(place for place in found if place is not None)):
        raise PipelineError(
            f"DVC has no experiments of this commit whose names begin with {sweep}: see `dvc exp list --all-commits`, "
            "and check out the commit that the sweep was started from."
        )
    return [_experiment(*found[place]) for place in ours]


def write_comparison(
    experiments: Sequence[Experiment], *, report: Path, metrics: Path, title: str, columns: Sequence[Column] = ()
) -> None:
    """Writes the page and the figures of a sweep."""
    lines, curve = rows(experiments), closes_heads(experiments)
    write_text(report, comparison_page(lines, title=title, columns=columns, curve=curve))
    write_text(metrics, json.dumps(compare_runs(lines, columns=columns), indent=2) + "\n")


def failures(experiments: Iterable[Experiment]) -> list[str]:
    """A line for every experiment that has not succeeded: its name, its state, and the last error in its log."""
    return [
        f"{experiment.name} {'has failed' if experiment.state == 'failed' else f'is {experiment.state}'}"
        f"{f' ({said})' if (said := last_error(experiment.log)) else ''}; see `dvc queue logs {experiment.name}`"
        for experiment in experiments
        if experiment.state != "success"
    ]


def _untracked(root: str) -> list[Path]:
    """The raw data, if they lie in this tree and neither git nor DVC would bring them into a copy of it."""
    path = Path(root)
    if is_remote(root) or path.is_absolute() or dvc_file(root) or git("ls-files", "--", root).stdout:
        return []
    if ".." in path.parts or not path.exists():
        raise PipelineError(
            f"dataset.root {root} is {'missing' if not path.exists() else 'outside of this tree'}: an experiment, "
            "which runs in a copy of the tree, cannot read it. Give a folder in the tree or an absolute path."
        )
    return [path]


def _experiment(entry: Mapping[str, Any], base: str) -> Experiment:
    """What ``dvc exp show --json`` says of an experiment."""
    revision, executor = entry["revs"][0], entry["executor"] or {}
    data, log = revision.get("data") or {}, (executor.get("local") or {}).get("log")
    params = {name: v for file in (data.get("params") or {}).values() for name, v in _flat(file.get("data") or {})}
    metrics = (data.get("metrics") or {}).get(STAGES["evaluate"].metrics.as_posix()) or {}
    time = data.get("timestamp")  # of this machine's clock, without a time zone
    return Experiment(
        revision["name"],
        "failed" if revision.get("error") else executor.get("state") or "success",  # DVC forgets old executors
        params,
        metrics.get("data") or {},
        Path(log) if log else None,
        revision=revision["rev"],
        base=base,
        ended=datetime.fromisoformat(time).astimezone(UTC) if time else None,
    )


def _place(sweep: str, name: str) -> tuple[int, ...] | None:
    """The place of an experiment in its sweep, as grid and number or one of them; None for one of another.

    A sweep of one grid has no number for it, and a grid of one experiment none for that.
    """
    prefix, _, numbers = name.partition(f"{sweep}-")
    if name == sweep:
        return ()
    words = numbers.split("-")
    return tuple(map(int, words)) if not prefix and all(word.isdecimal() for word in words) else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested parameters by their dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _has_started(sweep: str) -> bool:
    """Whether anything runs, or something of the sweep has run, as the table of ``dvc queue status`` says."""
    rows = [line.split() for line in dvc("queue", "status", **_environment()).stdout.splitlines() if line.strip()]
    return any(row[-1] == "Running" or (sweep in " ".join(row) and row[-1] != "Queued") for row in rows)


def _environment() -> dict[str, str]:
    """With it the commands of an experiment find this installation's programs and their own copy's code.

    ctm is installed as a link to this tree. Without "." on the path an experiment would import it from here, and not
    from its copy, whose files DVC has looked at: what is edited while the queue runs would get into the results.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, "PYTHONPATH": os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])}
