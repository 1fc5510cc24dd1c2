"""Experiments of a sweep and how they belong together: which differ only in their seed, and what each is called."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ctm.evaluation.comparison import Row
from pipelines.table8 import LAMBDA

__all__ = [
    "PRUNING",
    "SEED",
    "UNCHANGED",
    "Experiment",
    "closes_heads",
    "grouped",
    "last_error",
    "rows",
    "shared_values",
    "varied",
    "word",
]

SEED = "seed"
"""The parameter over which mean and standard deviation are taken."""

PRUNING = (LAMBDA, *(f"train_classifier.{name}" for name in ("pruning_warmup_epochs", "sparsity", "gate_lr")))
"""Parameters that only change which heads close; those of the section gates are others."""

UNCHANGED = "unchanged"
"""What runs are called whose parameters all have the values that most runs have."""


@dataclass(frozen=True)
class Experiment:
    """An experiment of DVC.

    Attributes:
        name: DVC's name of it.
        state: queued, running, failed or success.
        params: by dotted name.
        metrics: of the stage evaluate, empty where there are none.
        log: the file with what its commands wrote, None where DVC keeps none.
        revision: the commit that DVC made of it, and of the tree that it started from; empty where unknown.
        base: the commit that the sweep was started from; empty where unknown.
        ended: when that commit was made.
    """

    name: str
    state: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    log: Path | None
    revision: str = ""
    base: str = ""
    ended: datetime | None = None


def varied(experiments: Sequence[Experiment]) -> list[str]:
    """The parameters, seed included, in which experiments differ."""
    names = dict.fromkeys(name for experiment in experiments for name in experiment.params)
    return [name for name in names if len({word(experiment.params.get(name)) for experiment in experiments}) > 1]


def grouped(experiments: Sequence[Experiment]) -> list[tuple[str, list[Experiment]]]:
    """Those that differ only in their seed together, in the order of the first of each group, under one name.

    A name says the parameters in which the groups differ, but for the values of ``shared_values``. Experiments that
    have even their seed in common stay apart.
    """
    groups: dict[tuple[tuple[str, ...], int], list[Experiment]] = {}
    others = [name for name in varied(experiments) if name != SEED]
    seen: Counter[tuple[str, ...]] = Counter()
    for experiment in experiments:
        values = _values(experiment, others)
        alike = (*values, word(experiment.params.get(SEED)))
        groups.setdefault((values, seen[alike]), []).append(experiment)
        seen[alike] += 1
    shown = others if any(len(group) > 1 for group in groups.values()) else varied(experiments)
    shared = shared_values(experiments)
    found: dict[str, list[Experiment]] = {}
    for group in groups.values():
        name = _name(group[0], shown, shared)
        found[f"{name} ({group[0].name})" if name in found else name] = group
    return list(found.items())


def rows(experiments: Sequence[Experiment]) -> list[Row]:
    """The lines of a comparison: the metrics of those of each group that have succeeded; none for a group without."""
    succeeded = {
        name: tuple(dict(experiment.metrics) for experiment in group if experiment.state == "success")
        for name, group in grouped(experiments)
    }
    return [Row(name, metrics) for name, metrics in succeeded.items() if metrics]


def shared_values(experiments: Sequence[Experiment]) -> dict[str, str]:
    """The values that most of the compared settings have of parameters in which some differ, as in an ablation.

    Names leave them out: where each setting changes one thing, only that is worth saying.
    """
    others = [name for name in varied(experiments) if name != SEED]
    settings = {_values(experiment, others) for experiment in experiments}
    most = {
        name: Counter(values).most_common(1)[0]
        for name, values in zip(others, zip(*settings, strict=True), strict=True)
    }
    return {name: value for name, (value, count) in most.items() if 2 * count > len(settings)}


def closes_heads(experiments: Sequence[Experiment]) -> bool:
    """Whether experiments differ in one parameter alone, and that closes heads: their points make one curve."""
    others = [name for name in varied(experiments) if name != SEED]
    return len(others) == 1 and (others[0] in PRUNING or others[0].startswith("gates."))


def last_error(log: Path | None) -> str:
    """The last line of a log in which a command tells of an error; empty where there is none."""
    if log is None or not log.is_file():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    for beginning in ("error:", "ERROR:"):  # the stage's own words before DVC's, which repeat its whole command
        if found := [line for line in lines if line.startswith(beginning)]:
            return found[-1]
    return ""


def word(value: Any) -> str:
    """A parameter's value as an override says it."""
    return value if isinstance(value, str) else json.dumps(value)


def _values(experiment: Experiment, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(word(experiment.params.get(name)) for name in names)


def _name(experiment: Experiment, names: Sequence[str], shared: Mapping[str, str]) -> str:
    values = {name: word(experiment.params.get(name)) for name in names}
    changed = [f"{name}={value}" for name, value in values.items() if shared.get(name) != value]
    return ", ".join(changed) or (UNCHANGED if names else experiment.name)
