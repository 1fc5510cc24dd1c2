"""Several runs side by side: the columns of the paper's Table 8 as one page and as a metrics file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctm.errors import ParamsError
from ctm.evaluation.style import render
from ctm.evaluation.summary import figure, read_metrics
from ctm.stage import Metrics

__all__ = ["COLUMNS", "Column", "Run", "compare_runs", "comparison_page", "listed_runs", "named_runs"]

Run = tuple[str, Metrics]
"""What a run is called, and its metrics as the stage evaluate writes them."""


@dataclass(frozen=True)
class Column:
    """A figure of the table; ``ranked``: whether more is better, so that the best is marked."""

    name: str
    what: str
    figure: str
    colour: str
    ranked: bool = True


COLUMNS = (
    Column("heads.sparsity", "Heads", "sparsity", "plain", ranked=False),
    Column("classifier.val.accuracy", "Classifier", "val accuracy", "green"),
    Column("classifier.val.map", "Classifier", "val mAP", "green"),
    Column("pseudomasks.train.pixel_accuracy", "Pseudo-masks", "train pixel accuracy", "blue"),
    Column("pseudomasks.train.miou", "Pseudo-masks", "train mIoU", "blue"),
    Column("segmenter.val.miou", "Segmenter", "val mIoU", "orange"),
)
"""Table 8 of the paper, and the segmenter's score behind it."""


@dataclass(frozen=True)
class Cell:
    """One figure of one run, as the page shows it."""

    value: float | None
    colour: str
    best: bool


def named_runs(given: Iterable[str]) -> list[Run]:
    """The runs of ``NAME=FILE`` texts, whose last equals sign counts: a name may be an override with one of its own.

    Raises:
        ParamsError: a text is of another form.
        ArtifactError: a file holds no metrics.
    """
    runs = []
    for text in given:
        name, _, file = text.rpartition("=")
        if not (name and file):
            raise ParamsError(f"--run {text}: expected NAME=FILE, such as first=metrics/evaluate.json.")
        runs.append((name, read_metrics(Path(file))))
    return runs


def listed_runs(names: str, files: Sequence[Path]) -> list[Run]:
    """The runs that ``names``, a JSON list of texts, calls in the order of their files, as Kubeflow hands them over.

    Raises:
        ParamsError: the names are no such list, or not as many as files.
        ArtifactError: a file holds no metrics.
    """
    try:
        found = json.loads(names)
    except json.JSONDecodeError as error:
        raise ParamsError(f"--names is no valid JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ParamsError(f"--names {names}: expected a JSON list of texts.")
    if len(found) != len(files):
        raise ParamsError(f"--names has {len(found)} names for {len(files)} runs: {names}")
    return [(name, read_metrics(file)) for name, file in zip(found, files, strict=True)]


def compare_runs(runs: Sequence[Run]) -> dict[str, dict[str, float | None]]:
    """The figures of each run by the run's name and the figure's, None where a run has none.

    Raises:
        ParamsError: there is no run, or two have one name.
    """
    names = [name for name, _ in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not runs or twice:
        wrong = f"{', '.join(twice)} stands for more than one run" if twice else "there is no run to compare"
        raise ParamsError(f"{wrong}: give each run with a name of its own, --run NAME=FILE.")
    return {name: {column.name: figure(metrics, column.name) for column in COLUMNS} for name, metrics in runs}


def comparison_page(runs: Sequence[Run], *, title: str = "Runs compared") -> str:
    """One HTML page that holds everything it shows: a row a run, the best score of each column marked.

    Raises:
        ParamsError: there is no run, or two have one name.
    """
    table = compare_runs(runs)
    best = {column.name: _best(table, column) for column in COLUMNS}
    rows = [
        (
            name,
            [
                Cell(found[c.name], c.colour, found[c.name] is not None and found[c.name] == best[c.name])
                for c in COLUMNS
            ],
        )
        for name, found in table.items()
    ]
    return render("comparison.html.j2", title=title, columns=COLUMNS, rows=rows)


def _best(table: dict[str, dict[str, float | None]], column: Column) -> float | None:
    """The highest score of a column; None where more is not better, or where all are the same."""
    scores = {value for row in table.values() if (value := row[column.name]) is not None}
    return max(scores) if column.ranked and len(scores) > 1 else None
