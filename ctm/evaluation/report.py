"""The report: one HTML page that holds everything it shows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ctm.data.classes import IGNORE, ClassTable
from ctm.evaluation.confusion import ConfusionTable
from ctm.evaluation.figures import (
    class_colours,
    curves_svg,
    heat_picture,
    mask_picture,
    number,
    photo_picture,
    swatches,
)
from ctm.evaluation.sheet import Sheet, sheet_legend, sheet_pictures, shown_classes
from ctm.evaluation.style import NONE, render

__all__ = ["ClassRow", "CompareRow", "Headline", "Panel", "ReportData", "render_report"]

LOSS_WORDS = ("loss", "bce")
SCORE_WORDS = ("map", "miou", "accuracy", "sparsity")
"""Columns of a history whose name has one of these words hold values of 0..1."""


@dataclass(frozen=True)
class Headline:
    """One of the figures at the top: a score as float, a count as int, words as str, None where there is none."""

    label: str
    value: float | int | str | None
    explanation: str


@dataclass(frozen=True)
class CompareRow:
    """Pseudo-masks of the train split made in one way; ``chosen`` marks those that the segmenter learnt from.

    ``label_free`` is the score by which the strategy auto chose among recipes, None where it did not look at this one.
    """

    name: str
    strategy: str
    assignment: str | None = None
    refinement: str | None = None
    miou: float | None = None
    pixel_accuracy: float | None = None
    coverage: float | None = None
    label_free: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class ClassRow:
    """Scores of one class, 0..1: IoU of the train pseudo-masks and of the segmenter on val, classifier's AP on val."""

    name: str
    pseudo_iou: float | None = None
    segmenter_iou: float | None = None
    average_precision: float | None = None


@dataclass(frozen=True)
class Panel:
    """One sample in pictures.

    Attributes:
        key: of the sample.
        split: that the sample is from.
        image: (H, W, 3) uint8, as display_rgb makes it.
        labels: names of its image-level labels.
        truth: (H, W) mask values or None, as are the next two.
        pseudo_mask: what the extractor painted.
        prediction: what the segmenter says.
        maps: class name to its map (h0, w0).
    """

    key: str
    split: str
    image: NDArray[np.uint8]
    labels: Sequence[str]
    truth: NDArray[np.uint8] | None = None
    pseudo_mask: NDArray[np.uint8] | None = None
    prediction: NDArray[np.uint8] | None = None
    maps: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)

    @property
    def masks(self) -> dict[str, NDArray[np.uint8]]:
        """Those masks that there are, by what they are called."""
        masks = {"Truth": self.truth, "Pseudo-mask": self.pseudo_mask, "Prediction": self.prediction}
        return {name: mask for name, mask in masks.items() if mask is not None}


@dataclass(frozen=True)
class ReportData:
    """All that the page shows. Nothing in it may depend on the time or the place of the run: the bytes are compared.

    Attributes:
        title: of the page.
        dataset: name of the data set.
        format: layout it was read from, such as ``dfc2020``.
        classes: mask values, in whose order colours are given out.
        samples: number of samples of each split.
        label_source: where the candidates of the pseudo-masks come from.
        headline: the figures at the top.
        compare: pseudo-masks made in several ways.
        sheet: the same in pictures, None where there are none.
        views: at which sizes, and whether mirrored too, class maps were read, in words.
        tuned: there is a tune list, whose masks chose settings and are left out of the scores of pseudo-masks.
        saw_truth: the segmenter was trained on true masks, as the upper bound.
        choice: what was decided before the masks were made, in words; None where params.yaml says it all.
        per_class: scores of each class.
        confusion: which class the segmenter takes for which on val, None where there is no truth.
        panels: samples in pictures.
        gates: a row of heads for each block, 1 kept and 0 removed; rows may differ in length.
        classifier_history: lines of the classifier's history.csv.
        segmenter_history: lines of the segmenter's history.csv.
        configuration: the sections of params.yaml.
        notes: warnings that a reader must see before any figure.
        provenance: what made this, such as seed and version of ctm; None values are left out.
    """

    title: str
    dataset: str
    format: str
    classes: ClassTable
    samples: Mapping[str, int] = field(default_factory=dict)
    label_source: Literal["image", "predicted"] = "image"
    headline: Sequence[Headline] = ()
    compare: Sequence[CompareRow] = ()
    sheet: Sheet | None = None
    views: str = ""
    tuned: bool = False
    saw_truth: bool = False
    choice: str | None = None
    per_class: Sequence[ClassRow] = ()
    confusion: ConfusionTable | None = None
    panels: Sequence[Panel] = ()
    gates: Sequence[Sequence[int]] = ()
    classifier_history: Sequence[Mapping[str, object]] = ()
    segmenter_history: Sequence[Mapping[str, object]] = ()
    configuration: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    provenance: Mapping[str, str | int | None] = field(default_factory=dict)


def render_report(data: ReportData) -> str:
    """Makes the page: styles and pictures inside it, no script, no reference to any other file or address."""
    colours = class_colours(data.classes)
    return render(
        "report.html.j2",
        data=data,
        scored=any(row.miou is not None for row in data.compare),
        label_free=any(row.label_free is not None for row in data.compare),
        swatches=swatches(data.classes),
        legend=shown_classes(
            data.classes,
            [name for panel in data.panels for name in panel.labels],
            [mask for panel in data.panels for mask in panel.masks.values()],
        ),
        sheet_legend=sheet_legend(data.sheet, data.classes) if data.sheet else [],
        sheet_rows=sheet_pictures(data.sheet, colours) if data.sheet else [],
        panels=[_pictures(panel, colours) for panel in data.panels],
        charts=[*_charts("Classifier", data.classifier_history), *_charts("Segmenter", data.segmenter_history)],
        kept=sum(map(sum, data.gates)),
        heads=sum(map(len, data.gates)),
        means=_means(data.per_class),
        configuration=_sections(data.configuration),
        provenance={name: value for name, value in data.provenance.items() if value is not None},
    )


def _pictures(panel: Panel, colours: NDArray[np.uint8]) -> dict[str, Any]:
    """The pictures of a panel as data URIs, with their captions."""
    masks = {
        name if (mask != IGNORE).any() else f"{name}: nothing painted": mask_picture(panel.image, mask, colours)
        for name, mask in panel.masks.items()
    }
    return {
        "key": panel.key,
        "split": panel.split,
        "labels": panel.labels,
        "tiles": {"Image": photo_picture(panel.image)} | masks,
        "maps": {name: heat_picture(panel.image, class_map) for name, class_map in panel.maps.items()},
    }


def _charts(model: str, rows: Sequence[Mapping[str, object]]) -> list[tuple[str, Markup]]:
    """Titles and SVG elements of a model's losses, scores and open heads, as far as its history has them."""
    columns = [c for c in (rows[0] if rows else ()) if any(math.isfinite(number(row.get(c))) for row in rows)]
    losses = [c for c in columns if any(word in c for word in LOSS_WORDS)]
    scores = [c for c in columns if any(word in c for word in SCORE_WORDS) and c not in losses]
    heads = [c for c in columns if "open_heads" in c]
    return [
        (f"{model} – {what}", Markup(curves_svg(rows, chosen, bounded=what == "scores")))
        for what, chosen in (("loss", losses), ("scores", scores), ("open heads", heads))
        if chosen
    ]


def _means(rows: Sequence[ClassRow]) -> ClassRow:
    """The mean of each column over the classes that have a value."""

    def mean(column: str) -> float | None:
        known = [value for row in rows if (value := getattr(row, column)) is not None]
        return sum(known) / len(known) if known else None

    return ClassRow("mean", mean("pseudo_iou"), mean("segmenter_iou"), mean("average_precision"))


def _sections(configuration: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Parameters by section; those that stand alone, such as the seed, share the section ``general``."""
    alone = {name: value for name, value in configuration.items() if not isinstance(value, Mapping)}
    sections = {name: value for name, value in configuration.items() if isinstance(value, Mapping)}
    return {name: _flatten(values) for name, values in (({"general": alone} if alone else {}) | sections).items()}


def _flatten(values: object, prefix: str = "") -> list[tuple[str, str]]:
    """Nested parameters as pairs of a dotted name and the value as text."""
    if isinstance(values, Mapping) and values:
        return [pair for name, value in values.items() for pair in _flatten(value, f"{prefix}.{name}".strip("."))]
    if isinstance(values, list | tuple):
        return [(prefix, ", ".join(map(str, values)) or NONE)]
    return [(prefix, values if isinstance(values, str) else json.dumps(values))]
