"""A sweep over parameters on this machine: experiments in DVC's queue, then one report that compares them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctm.evaluation.comparison import Run, compare_runs, comparison_page
from ctm.params import load_params
from ctm.runtime.outputs import write_text
from ctm.runtime.storage import is_remote
from ctm.stages import STAGES
from pipelines.errors import PipelineError
from pipelines.provenance import dvc, dvc_file, error_text, git
from pipelines.request import LAMBDA, LAMBDAS

__all__ = ["TABLE_8", "Experiment", "collect", "failures", "named", "queue", "run_queued", "write_comparison"]

TABLE_8 = f"{LAMBDA}={','.join(LAMBDAS)}"
"""The sweep of the paper's Table 8."""

LIST = "[](){}'\""
"""Signs of a value that is more than a plain word, in which a comma need not separate values."""


@dataclass(frozen=True)
class Experiment:
    """An experiment of DVC.

    Attributes:
        name: DVC's name of it.
        state: queued, running, failed or success.
        params: by dotted name.
        metrics: of the stage evaluate, empty where there are none.
        log: the file with what its commands wrote, None where DVC keeps none.
    """

    name: str
    state: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    log: Path | None


def queue(values: Sequence[str], *, params: Path, copy: Iterable[Path] = ()) -> str:
    """Puts an experiment into DVC's queue for every combination of values.

    DVC runs an experiment in a copy of what git and DVC track. Raw data that neither of them knows are copied too.

    Args:
        values: ``section.name=value,value,…``; several are combined, each value with each.
        params: the parameter file.
        copy: further files and folders that git does not track and the stages read.

    Returns:
        What the names of the experiments begin with.

    Raises:
        ParamsError: a name or a value is wrong.
        PipelineError: DVC refuses.
    """
    for override in (single for text in values for single in _singles(text)):
        load_params(params, [override])  # found now, and not by each experiment
    sweep = f"sweep-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    copied = [*copy, *_untracked(load_params(params).dataset.root)]
    options = [word for path in copied for word in ("--copy-paths", str(path))]
    changes = [word for text in values for word in ("--set-param", f"{params}:{text}")]
    done = _dvc("exp", "run", "--queue", "--name", sweep, *options, *changes, capture=True)
    if done.returncode:
        raise PipelineError(f"DVC cannot queue the sweep: {error_text(done.stderr)}")
    return sweep


def run_queued(*, jobs: int) -> None:
    """Runs all that is in DVC's queue, ``jobs`` at a time, and returns when it has ended; its logs are shown.

    Whether an experiment has failed is not to be seen from DVC's exit code: ``collect`` tells.
    """
    _dvc("exp", "run", "--run-all", "--jobs", str(jobs))


def collect(sweep: str) -> list[Experiment]:
    """The experiments of a sweep, in the order of their values.

    Raises:
        PipelineError: DVC knows none of that name, or cannot list them.
    """
    done = _dvc("exp", "show", "--json", capture=True)
    if done.returncode:
        raise PipelineError(f"DVC cannot list the experiments: {error_text(done.stderr)}")
    listed = [entry for commit in json.loads(done.stdout) for entry in commit["experiments"] or ()]
    found = {_number(sweep, e["revs"][0]["name"] or ""): e for e in listed if e["revs"]}
    if not (ours := sorted(number for number in found if number is not None)):
        raise PipelineError(
            f"DVC has no experiments of this commit whose names begin with {sweep}: see `dvc exp list --all-commits`, "
            "and check out the commit that the sweep was started from."
        )
    return [_experiment(found[number]) for number in ours]


def named(experiments: Sequence[Experiment]) -> list[Run]:
    """The metrics of the experiments that have succeeded, each named by the parameters in which they differ."""
    names = dict.fromkeys(name for experiment in experiments for name in experiment.params)
    varied = [name for name in names if len({_word(experiment.params.get(name)) for experiment in experiments}) > 1]
    runs: dict[str, dict[str, Any]] = {}
    for experiment in experiments:
        if experiment.state == "success":
            name = ", ".join(f"{name}={_word(experiment.params.get(name))}" for name in varied) or experiment.name
            runs[f"{name} ({experiment.name})" if name in runs else name] = dict(experiment.metrics)
    return list(runs.items())


def write_comparison(runs: Sequence[Run], *, report: Path, metrics: Path, title: str) -> None:
    """Writes the page and the figures of a sweep."""
    write_text(report, comparison_page(runs, title=title))
    write_text(metrics, json.dumps(compare_runs(runs), indent=2) + "\n")


def failures(experiments: Iterable[Experiment]) -> list[str]:
    """A line for every experiment that has not succeeded: its name, its state, and the last error in its log."""
    return [
        f"{experiment.name} {'has failed' if experiment.state == 'failed' else f'is {experiment.state}'}"
        f"{_last_error(experiment.log)}; see `dvc queue logs {experiment.name}`"
        for experiment in experiments
        if experiment.state != "success"
    ]


def _singles(text: str) -> list[str]:
    """The overrides of ``name=value,value``, one for each value; none where the commas may mean something else."""
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise PipelineError(f"{text}: expected section.name=value,value, such as {TABLE_8}.")
    return [] if set(LIST) & set(values) else [f"{name}={value}" for value in values.split(",")]


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


def _experiment(entry: Mapping[str, Any]) -> Experiment:
    """What ``dvc exp show --json`` says of an experiment."""
    revision, executor = entry["revs"][0], entry["executor"] or {}
    data, log = revision.get("data") or {}, (executor.get("local") or {}).get("log")
    params = {name: v for file in (data.get("params") or {}).values() for name, v in _flat(file.get("data") or {})}
    metrics = (data.get("metrics") or {}).get(STAGES["evaluate"].metrics.as_posix()) or {}
    state = "failed" if revision.get("error") else executor.get("state") or "success"  # DVC forgets old executors
    return Experiment(revision["name"], state, params, metrics.get("data") or {}, Path(log) if log else None)


def _word(value: Any) -> str:
    """A parameter's value as an override says it."""
    return value if isinstance(value, str) else json.dumps(value)


def _number(sweep: str, name: str) -> int | None:
    """The place of an experiment in its sweep; None for one of another."""
    if name == sweep:
        return 0  # a sweep of one value has one experiment, whose name has no number
    prefix, _, number = name.rpartition("-")
    return int(number) if prefix == sweep and number.isdecimal() else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested parameters by their dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _dvc(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs DVC so that the commands of an experiment find this installation's programs and their own copy's code.

    ctm is installed as a link to this tree. Without "." on the path an experiment would import it from here, and not
    from its copy, whose files DVC has looked at: what is edited while the queue runs would get into the results.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    code = os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])
    return dvc(*arguments, capture=capture, PATH=path, PYTHONPATH=code)


def _last_error(log: Path | None) -> str:
    """The last line of a log in which a command tells of an error, as the end of a clause."""
    if log is None or not log.is_file():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    for beginning in ("error:", "ERROR:"):  # the stage's own words before DVC's, which repeat its whole command
        if found := [line for line in lines if line.startswith(beginning)]:
            return f" ({found[-1]})"
    return ""
