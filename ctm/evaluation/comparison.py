"""Several runs side by side: the columns of the paper's Table 8, or others, as one page and as a metrics file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctm.errors import ParamsError
from ctm.evaluation.spread import Spread, spread
from ctm.evaluation.style import render
from ctm.metrics import figure, figure_names, read_metrics
from ctm.stage import Metrics

__all__ = [
    "Column",
    "Row",
    "column",
    "columns_of",
    "compare_runs",
    "comparison_page",
    "curve_svg",
    "listed_runs",
    "named_runs",
    "unknown_columns",
]

SPARSITY, MAP = "heads.sparsity", "classifier.val.map"
PARTS = {
    "heads": ("Heads", "plain"),
    "classifier": ("Classifier", "green"),
    "pseudomasks": ("Pseudo-masks", "blue"),
    "segmenter": ("Segmenter", "orange"),
}
"""What the first part of a figure's name stands for, and its colour on the page."""

SCORES = ("accuracy", "coverage", "map", "miou", "pixel_accuracy")
"""Last words of figures of 0..1 of which more is better."""

WORDS = {"map": "mAP", "miou": "mIoU", "iou": "IoU", "compare": ""}


@dataclass(frozen=True)
class Row:
    """A line of a comparison: a run, or several that differ only in their seed.

    Attributes:
        name: what the line is called.
        runs: the metrics of each run as the stage evaluate writes them; at least one.
    """

    name: str
    runs: tuple[Metrics, ...]

    def spread(self, name: str) -> Spread | None:
        """The figure of a dotted name over the runs; None where none has it."""
        return spread(figure(metrics, name) for metrics in self.runs)


@dataclass(frozen=True)
class Column:
    """A figure of the table; ``ranked``: whether more is better, so that the best is marked."""

    name: str
    what: str
    figure: str
    colour: str
    ranked: bool = True


def column(name: str) -> Column:
    """The column of any figure, by its dotted name: ``pseudomasks.train.compare.attention.miou``."""
    part, _, rest = name.partition(".")
    what, colour = PARTS.get(part, (part, "plain"))
    words = " ".join(filter(None, (WORDS.get(word, word) for word in rest.replace(".", "_").split("_"))))
    return Column(name, what, words or part, colour, ranked=_is_score(name))


def _is_score(name: str) -> bool:
    """Whether a figure is one of 0..1 of which more is better, and no count or share of heads."""
    *path, last = name.split(".")
    return last in SCORES or "classes" in path


def columns_of(rows: Iterable[Row]) -> tuple[Column, ...]:
    """The columns of the paper's Table 8, with mAP beside the accuracy, and the segmenter's score behind it."""
    masks = f"pseudomasks.{_reported(rows)}"
    names = (
        SPARSITY,
        "classifier.val.accuracy",
        MAP,
        f"{masks}.pixel_accuracy",
        f"{masks}.miou",
        "segmenter.val.miou",
    )
    return tuple(map(column, names))


def _reported(rows: Iterable[Row]) -> str:
    """Which pseudo-masks count: where there is a tune list, those of the other images."""
    return "score" if any(row.spread("pseudomasks.score.miou") for row in rows) else "train"


@dataclass(frozen=True)
class Cell:
    """One figure of one row, as the page shows it; ``count`` where fewer runs have it than the row has."""

    value: float | None
    sd: float | None
    count: int | None
    colour: str
    best: bool


def named_runs(given: Iterable[str]) -> list[Row]:
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
        runs.append(Row(name, (read_metrics(Path(file)),)))
    return runs


def listed_runs(names: str, files: Sequence[Path]) -> list[Row]:
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
    return [Row(name, (read_metrics(file),)) for name, file in zip(found, files, strict=True)]


def compare_runs(rows: Sequence[Row], *, columns: Sequence[Column] = ()) -> dict[str, dict[str, float | None]]:
    """The figures of each row by the row's name and the figure's, None where it has none.

    Without ``columns`` they are those of ``columns_of``. A row of several runs has their means, under
    ``<figure>.sd`` the standard deviations, and under ``runs`` how many.

    Raises:
        ParamsError: there is no row, or two have one name.
    """
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not rows or twice:
        wrong = f"{', '.join(twice)} stands for more than one run" if twice else "there is no run to compare"
        raise ParamsError(f"{wrong}: give each run with a name of its own, --run NAME=FILE.")
    return {row.name: _figures(row, columns or columns_of(rows)) for row in rows}


def comparison_page(
    rows: Sequence[Row],
    *,
    title: str = "Runs compared",
    columns: Sequence[Column] = (),
    curve: bool = True,
) -> str:
    """One HTML page that holds everything it shows: a line a row, the best score of each column marked.

    Args:
        rows: what is compared.
        title: of the page.
        columns: which figures; none: those of ``columns_of``.
        curve: whether to draw figures over sparsity where rows differ in it.

    Raises:
        ParamsError: there is no row, or two have one name.
    """
    from markupsafe import Markup

    from ctm.evaluation.svg import inline_svg

    columns = columns or columns_of(rows)
    table = compare_runs(rows, columns=columns)
    best = {column.name: _best(table, column) for column in columns}
    svg = curve_svg(rows) if curve else None
    return render(
        "comparison.html.j2",
        title=title,
        columns=columns,
        rows=[(row.name, len(row.runs), [_cell(row, column, best[column.name]) for column in columns]) for row in rows],
        seeds=max(len(row.runs) for row in rows),
        curve=svg and Markup(inline_svg(svg)),
    )


def curve_svg(rows: Sequence[Row]) -> str | None:
    """Classifier and pseudo-masks over sparsity as the text of an SVG file; None where rows do not differ in it."""
    from ctm.evaluation.sparsity_curve import Point, sparsity_svg

    which = _reported(rows)
    miou = f"pseudomasks.{which}.miou"
    return sparsity_svg([Point(row.spread(SPARSITY), row.spread(MAP), row.spread(miou)) for row in rows], masks=which)


def unknown_columns(rows: Iterable[Row], columns: Iterable[Column]) -> list[str]:
    """The names of columns that no run has a figure for, not even null: most likely they are misspelt."""
    known = {name for row in rows for metrics in row.runs for name in figure_names(metrics)}
    return [column.name for column in columns if column.name not in known]


def _figures(row: Row, columns: Iterable[Column]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for column in columns:
        over = row.spread(column.name)
        found[column.name] = over.mean if over else None
        if len(row.runs) > 1:
            found[f"{column.name}.sd"] = over.sd if over else None
    return found if len(row.runs) == 1 else found | {"runs": len(row.runs)}


def _cell(row: Row, column: Column, best: float | None) -> Cell:
    over = row.spread(column.name)
    if over is None:
        return Cell(None, None, None, column.colour, best=False)
    fewer = over.count if over.count < len(row.runs) else None
    return Cell(over.mean, over.sd, fewer, column.colour, best=over.mean == best)


def _best(table: dict[str, dict[str, float | None]], column: Column) -> float | None:
    """The highest score of a column; None where more is not better, or where all are the same."""
    scores = {value for row in table.values() if (value := row[column.name]) is not None}
    return max(scores) if column.ranked and len(scores) > 1 else None
