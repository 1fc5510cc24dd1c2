"""One comparison of a plain reference with ctm, on the same inputs in the same run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.measure import median_seconds, peak_megabytes

__all__ = ["HEADER", "Row", "measured"]

HEADER = f"{'':<56}{'reference':>11}{'ours':>11}{'time ÷':>9}{'reference':>12}{'ours':>11}{'memory ÷':>10}"


@dataclass(frozen=True)
class Row:
    """A comparison.

    Attributes:
        name: what is compared.
        reference: the plain way, or what the price of ours is told in.
        ours: what ctm does.
        agree: whether the two results are the same; None where they are different things.
        memory: whether peak memory is compared, too.
        samples: how many samples a run works on, where samples a second are what is told.
        limit: what reference divided by ours must not exceed, where ours is the unit of a price; told, not enforced.
    """

    name: str
    reference: Callable[[], Any]
    ours: Callable[[], Any]
    agree: Callable[[Any, Any], bool] | None
    memory: bool = False
    samples: int | None = None
    limit: float | None = None


def measured(row: Row, *, repeats: int) -> str:
    """One line of the table: times in ms, memory in MB, and reference divided by ours."""
    if row.agree is not None and not row.agree(row.reference(), row.ours()):
        sys.exit(f"error: {row.name}: the reference and ctm give different results")
    reference, ours = median_seconds([row.reference, row.ours], repeats=repeats)
    line = f"{row.name:<56}{_speed(row, reference):>11}{_speed(row, ours):>11}{reference / ours:>9.2f}"
    if row.memory:
        kept, needed = peak_megabytes(row.reference), peak_megabytes(row.ours)
        line += f"{kept:>9.1f} MB{needed:>8.1f} MB{kept / needed:>10.2f}"
    if row.limit is not None:
        line += f"  {'at most' if reference / ours <= row.limit else 'MORE THAN'} {row.limit:g}"
    return line


def _speed(row: Row, seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if row.samples is None else f"{row.samples / seconds:.0f} /s"
