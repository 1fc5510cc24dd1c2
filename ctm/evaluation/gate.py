"""The gate before a pull request: is a run good enough, and how does it stand against another."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ctm.errors import ParamsError
from ctm.evaluation.config import QualityGateConfig
from ctm.evaluation.style import NONE, value
from ctm.metrics import figure, figure_names, parse_metrics
from ctm.runtime.provenance import git
from ctm.stage import Metrics

__all__ = ["Gate", "Row", "check_gate", "gate_table", "metrics_at"]

SHOWN = (
    "segmenter.val.miou",
    "segmenter.val.pixel_accuracy",
    "pseudomasks.train.miou",
    "pseudomasks.train.pixel_accuracy",
    "pseudomasks.train.coverage",
    "classifier.val.map",
    "classifier.val.accuracy",
    "heads.sparsity",
)
"""The figures of the table, beside the one that decides."""

DIGITS = 9
"""A drop from 0.90 to 0.88 is one of 0.02: what binary fractions add behind this many decimals does not count."""


@dataclass(frozen=True)
class Row:
    """A figure of this run and of the baseline, None where there is none."""

    name: str
    value: float | None
    baseline: float | None

    @property
    def difference(self) -> float | None:
        """How much higher this run's figure is."""
        return None if self.value is None or self.baseline is None else self.value - self.baseline


@dataclass(frozen=True)
class Gate:
    """What the gate found.

    Attributes:
        passed: whether the run is good enough.
        metric: the figure that decides.
        reasons: why it passed or not, a sentence each.
        rows: the figures of the table.
    """

    passed: bool
    metric: str
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]


def check_gate(metrics: Metrics, baseline: Metrics | None, config: QualityGateConfig) -> Gate:
    """Holds a run against what is demanded of it.

    Args:
        metrics: the run's, as the stage evaluate writes them.
        baseline: those of the run that it would replace, or None where there is none yet.
        config: what is demanded.
    """
    names = dict.fromkeys((config.metric, *SHOWN))
    rows = tuple(Row(name, figure(metrics, name), figure(baseline or {}, name)) for name in names)
    present = list(figure_names(metrics))
    if config.metric not in present:
        found = [(False, _no_such_figure(config.metric, present))]
    else:
        found = [*_check_minimum(rows[0], config), *_check_drop(rows[0], baseline is not None, config)]
    if config.minimum is None and config.max_drop is None:
        found.append((True, "Nothing is demanded: evaluate.gate.minimum and evaluate.gate.max_drop are null."))
    return Gate(all(passed for passed, _ in found), config.metric, tuple(reason for _, reason in found), rows)


def gate_table(gate: Gate, *, against: str = "main") -> str:
    """The gate in Markdown, as the text of a pull request: verdict, reasons and the figures of both runs.

    Args:
        gate: what was found.
        against: what the baseline is called.
    """
    lines = [f"**The gate has {'passed' if gate.passed else 'failed'}.**", ""]
    lines += [*(f"* {_escaped(reason)}" for reason in gate.reasons), ""]
    lines += [f"| figure | {_escaped(against)} | this run | difference |", "|---|---:|---:|---:|"]
    for row in gate.rows:
        name = f"**{row.name}**" if row.name == gate.metric else row.name
        cells = (_escaped(name), value(row.baseline), value(row.value), _signed(row.difference))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def metrics_at(revision: str, path: Path) -> Metrics | None:
    """The metrics file ``path`` as it is in a git revision; None where that revision has no such file.

    Raises:
        ParamsError: git does not know the revision.
        ArtifactError: the file there holds no metrics.
    """
    folder = path.absolute().parent
    try:
        commit = git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}", folder=folder).strip()
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip()
        raise ParamsError(
            f"--against {revision}: git cannot read that revision from {folder}: {why}. "
            "For a branch of a remote, `git fetch` it first."
        ) from None
    if not git("ls-tree", "--name-only", commit, "--", path.name, folder=folder):
        return None
    return parse_metrics(git("show", f"{commit}:./{path.name}", folder=folder), origin=f"{revision}:{path}")


def _no_such_figure(name: str, present: Iterable[str]) -> str:
    """What to say of a figure that is not in the metrics at all, with those that are; single classes are left out."""
    known = ", ".join(other for other in present if ".classes." not in other)
    return f"The metrics have no {name}, which evaluate.gate.metric names. They have {known}."


def _check_minimum(row: Row, config: QualityGateConfig) -> Iterator[tuple[bool, str]]:
    """Whether the figure is at least the minimum, and the sentence for it; nothing where there is no minimum."""
    if config.minimum is None:
        return
    if row.value is None:
        yield False, f"{row.name} has no value, for want of truth to score by; the minimum is {config.minimum:g}."
    else:
        passed = row.value >= config.minimum
        words = "at least" if passed else "less than"
        yield passed, f"{row.name} is {row.value:.6g}, {words} the minimum of {config.minimum:g}."


def _check_drop(row: Row, compared: bool, config: QualityGateConfig) -> Iterator[tuple[bool, str]]:
    """Whether the figure has dropped too far, and the sentence for it; nothing where any drop is allowed."""
    if config.max_drop is None:
        return
    if row.baseline is None:
        why = f"The baseline has no {row.name}" if compared else "There is no baseline"
        yield True, f"{why}: only the minimum counts."
    elif row.value is None:
        yield False, f"{row.name} has no value, for want of truth to score by; the baseline's is {row.baseline:.4g}."
    else:
        drop = round(row.baseline - row.value, DIGITS)
        words = "has not dropped" if drop <= 0 else f"has dropped by {drop:.4g}"
        yield drop <= config.max_drop, f"{row.name} {words}; {config.max_drop:g} is allowed."


def _signed(number: float | None) -> str:
    """A difference with its sign."""
    return NONE if number is None else f"{round(number, 3) + 0.0:+.3f}"  # + 0.0: no minus before a zero


def _escaped(text: str) -> str:
    """Text that stays inside its cell."""
    return text.replace("|", r"\|")
