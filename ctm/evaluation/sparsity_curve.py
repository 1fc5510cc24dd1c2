"""What pruning costs, as a picture: val mAP and the pseudo-masks' mIoU over the fraction of heads removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ctm.evaluation.figures import CURVE_COLOURS
from ctm.evaluation.spread import Spread
from ctm.evaluation.svg import svg_style, svg_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Point", "sparsity_svg"]

LEAST_SPAN = 0.1
"""Height of a y axis at least: noise in the third decimal must not look like an effect."""


class Point(NamedTuple):
    """A row of a comparison; figures in 0..1, None where it has none."""

    sparsity: Spread | None
    classifier: Spread | None
    pseudomasks: Spread | None


def sparsity_svg(points: Sequence[Point], *, masks: str) -> str | None:
    """Two panels over one x axis as the text of an SVG file; None unless two points differ in sparsity.

    Bars are standard deviations over seeds, in both directions. Each y axis shows its own part of 0..1.

    Args:
        points: the rows of a comparison.
        masks: which images the pseudo-masks are of, as the title says it.
    """
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    if len({point.sparsity.mean for point in points if point.sparsity}) < 2:
        return None
    with svg_style():
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        _draw(upper, [(p.sparsity, p.classifier) for p in points], "classifier, val mAP", CURVE_COLOURS[2])
        _draw(lower, [(p.sparsity, p.pseudomasks) for p in points], f"pseudo-masks, {masks} mIoU", CURVE_COLOURS[0])
        lower.set_xlabel("fraction of heads removed")
        lower.set_xlim(-0.03, 1.0)
        return svg_text(figure)


def _draw(axes: Axes, pairs: Sequence[tuple[Spread | None, Spread | None]], what: str, colour: str) -> None:
    """One figure over sparsity, points joined in the order of sparsity."""
    known = sorted(((x, y) for x, y in pairs if x and y), key=lambda pair: pair[0].mean)
    if known:
        axes.errorbar(
            [x.mean for x, _ in known],
            [y.mean for _, y in known],
            xerr=[x.sd or 0 for x, _ in known],
            yerr=[y.sd or 0 for _, y in known],
            color=colour,
            linewidth=1.6,
            elinewidth=0.9,
            capsize=2,
            marker="o",
            markersize=4,
        )
        low, high = axes.get_ylim()
        span = max(LEAST_SPAN, high - low)
        top = min((low + high + span) / 2, 1.01)
        axes.set_ylim(top - span, top)
    axes.set_title(what)
