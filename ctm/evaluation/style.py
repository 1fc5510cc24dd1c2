"""The frame and the look that the HTML pages share, and the engine that fills their templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["NONE", "percent", "render", "value"]

NONE = "–"
"""Shown for a figure that does not exist."""


def render(template: str, **values: Any) -> str:
    """Fills a template of this folder; every value is escaped, a missing one is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"value": value, "percent": percent}
    return environment.get_template(template).render(values)


def value(value: float | int | str | None) -> str:
    """A figure as text: scores with three decimals, counts with their thousands apart."""
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else value


def percent(value: float | None) -> str:
    """The length of a bar, as CSS wants it."""
    return f"{100 * (value or 0.0):.1f}%"
