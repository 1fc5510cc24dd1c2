"""The Markdown page of a sweep: what ran, the table with mean and standard deviation, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ctm.evaluation.comparison import Column, Row
from ctm.evaluation.spread import Spread
from ctm.evaluation.style import NONE, value
from ctm.metrics import figure
from pipelines.experiments import SEED, Experiment, grouped, last_error, rows, shared_values, varied, word
from pipelines.portable import portable
from pipelines.table8 import LAMBDA

__all__ = ["Origin", "results_page"]

PAPER_HEADS = 12 * 16
"""Heads of the paper's ViT-B: 12 blocks of 16."""

PROTOCOL = "../protocol.md"
SAID = ("strategy", "assignment", "refinement", "label_source")
"""Parameters of extract_pseudomasks without which nobody can tell what a score of pseudo-masks is of."""

REPLACED = ("assignment", "refinement")
"""Those of them that the strategy auto chooses itself."""


@dataclass(frozen=True)
class Origin:
    """Where results come from.

    Attributes:
        sweep: DVC's name of it.
        command: the command line that made the results.
        revision: the commit that the runs started from; None where unknown.
        started: when the sweep was queued.
        minutes: from then to the end of the last run; None where unknown.
        machine: what it ran on, in words.
    """

    sweep: str
    command: str
    revision: str | None
    started: datetime
    minutes: float | None
    machine: str


def results_page(
    stem: str, experiments: Sequence[Experiment], *, columns: Sequence[Column], origin: Origin, curve: bool
) -> str:
    """The Markdown file of a sweep.

    Args:
        stem: name of the file without suffix, and title.
        experiments: at least one that has succeeded.
        columns: the figures of the table.
        origin: where they come from.
        curve: whether there is a picture beside it.
    """
    paragraphs = [
        f"# {stem}",
        f"    {origin.command}",
        _circumstances(experiments, origin),
        _table(rows(experiments), columns),
        _reading(experiments, columns),
        *filter(None, [_failed(experiments), _left_out(experiments), _penalty(experiments)]),
        *([f"![Classifier and pseudo-masks over sparsity]({stem}.svg)"] if curve else []),
        f"All figures and parameters of every run: [{stem}.json]({stem}.json). What may be compared with what: "
        f"[protocol]({PROTOCOL}).",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _circumstances(experiments: Sequence[Experiment], origin: Origin) -> str:
    """Revision, runs, seeds, machine and time in one paragraph."""
    done = [experiment for experiment in experiments if experiment.state == "success"]
    runs = (
        f"only {len(done)} of {len(experiments)} runs have succeeded"
        if len(done) < len(experiments)
        else f"{len(done)} runs"
    )
    seeds = _seeds(experiments)
    words = [
        f"Revision {origin.revision or 'unknown'}",
        runs,
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}",
        origin.machine,
        *([] if origin.minutes is None else [f"{origin.minutes:.1f} min for all"]),
    ]
    return f"{'; '.join(words)}; {origin.started:%Y-%m-%d}. What DVC's run cache held was not computed again."


def _table(lines: Sequence[Row], columns: Sequence[Column]) -> str:
    """A table with a line a row; n is how many runs a mean is over."""
    heads = ["", "n", *(f"{column.what}: {column.figure}" for column in columns)]
    body = [
        [line.name, str(len(line.runs)), *(_cell(line.spread(column.name), len(line.runs)) for column in columns)]
        for line in lines
    ]
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *body))


def _cell(over: Spread | None, runs: int) -> str:
    """Mean ± sd, and n where fewer runs have the figure than the row has."""
    if over is None:
        return NONE
    text = value(over.mean) if over.sd is None else f"{value(over.mean)} ± {value(over.sd)}"
    return text if over.count == runs else f"{text} (n = {over.count})"


def _reading(experiments: Sequence[Experiment], columns: Sequence[Column]) -> str:
    """What the figures are of."""
    params, shown = experiments[0].params, {column.name.partition(".")[0] for column in columns}
    differ = varied(experiments)
    auto = params.get("extract_pseudomasks.strategy") == "auto"
    asked = [name for name in SAID if not (auto and name in REPLACED)]
    said = [name for name in asked if (full := f"extract_pseudomasks.{name}") in params and full not in differ]
    words = ", ".join(f"{name} {word(params[f'extract_pseudomasks.{name}'])}" for name in said)
    parts = {
        "heads": "Heads: the fraction of attention heads that were removed.",
        "classifier": "Classifier: accuracy is the paper's, the mean over images and classes of (probability > 0.5) = "
        "label.",
        "pseudomasks": f"Pseudo-masks{f' ({words})' if words else ''}: against the true masks of the split named; a "
        "name between split and figure is an entry of evaluate.compare, read from the same checkpoint.",
        "segmenter": "Segmenter: trained on the pseudo-masks of train, scored against the true masks of the split "
        "named.",
    }
    found = ["Mean ± standard deviation of a sample over n seeds."] if len(_seeds(experiments)) > 1 else []
    found += [about for part, about in parts.items() if part in shown]
    if "truth" in {experiment.params.get("train_segmenter.supervision") for experiment in experiments}:
        found.append("With train_segmenter.supervision = truth the segmenter is an upper bound, trained on true masks.")
    return " ".join(found)


def _failed(experiments: Sequence[Experiment]) -> str | None:
    """The runs that are missing in n, and why."""
    found = [
        f"- {name}, seed {word(experiment.params.get(SEED))}: {experiment.state}"
        f"{f' ({said})' if (said := portable(last_error(experiment.log))) else ''}"
        for name, group in grouped(experiments)
        for experiment in group
        if experiment.state != "success"
    ]
    return "\n".join(["Runs that are in no figure:", "", *found]) if found else None


def _left_out(experiments: Sequence[Experiment]) -> str | None:
    """The values that names of rows leave out."""
    if shared := shared_values(experiments):
        return f"Where a row does not say otherwise: {', '.join(f'{name}={held}' for name, held in shared.items())}."
    return None


def _penalty(experiments: Sequence[Experiment]) -> str | None:
    """What lambda is multiplied with here and in the paper, where the sweep varies it."""
    heads = {figure(dict(experiment.metrics), "heads.total") for experiment in experiments} - {None}
    if LAMBDA not in varied(experiments) or len(heads) != 1:
        return None
    total = round(heads.pop() or 0)
    lambdas = sorted({float(held) for experiment in experiments if (held := experiment.params.get(LAMBDA)) is not None})
    here, there = ([f"{weight * count:.4g}" for weight in lambdas] for count in (total, PAPER_HEADS))
    return (
        f"Lambda is {LAMBDA}, not rescaled. It weighs the sum over all heads of P(gate open), as in the paper. "
        f"This model has {total} heads, the paper's ViT-B {PAPER_HEADS}: with all of them open the penalty, lambda × "
        f"heads, is {', '.join(here)} here and {', '.join(there)} there. On the gate of a single head the "
        "same lambda presses equally hard."
    )


def _seeds(experiments: Sequence[Experiment]) -> list[str]:
    return list(dict.fromkeys(word(experiment.params.get(SEED)) for experiment in experiments))
