"""Figures of matplotlib as SVG: the same bytes in every run, as a file or as an element of an HTML page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.figure import Figure

__all__ = ["TEXT_COLOUR", "inline_svg", "svg_style", "svg_text"]

TEXT_COLOUR = "#5d636e"
"""Readable on the white that SVG files bring along; pages give their text a colour of their own."""


def svg_style() -> AbstractContextManager[None]:
    """Settings to draw and write within; the salt makes ids, and so the bytes, the same in every run."""
    import matplotlib as mpl

    return mpl.rc_context(
        {
            "svg.hashsalt": "ctm",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.titlelocation": "left",
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "grid.color"), TEXT_COLOUR),
            **dict.fromkeys(("xtick.color", "ytick.color"), TEXT_COLOUR),
            **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
            **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
            "axes.grid": True,
            "axes.grid.axis": "y",
            "grid.alpha": 0.25,
            "grid.linewidth": 0.6,
        }
    )


def svg_text(figure: Figure) -> str:
    """The figure as the text of an SVG file on white, to be called within ``svg_style``."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return text.getvalue().replace("<svg ", '<svg style="background: #fff" ', 1)


def inline_svg(svg: str) -> str:
    """The SVG element alone, without white: prolog, namespaces and metadata name addresses that HTML does not need."""
    element = re.sub(r".*?<svg[^>]*?( viewBox=\S[^\"]*\")[^>]*>", r"<svg\1>", svg, count=1, flags=re.DOTALL)
    return re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
