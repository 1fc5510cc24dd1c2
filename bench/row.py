"""One comparison of a plain reference with ctm, on the same inputs in the same run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.measure import CPU, median_seconds, peak_megabytes

__all__ = ["HEADER", "Row", "measured"]

HEADER = f"{'':<58}{'reference':>11}{'ours':>11}{'time ÷':>9}{'reference':>13}{'ours':>12}{'memory ÷':>10}"


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
        repeats: how often each side is timed at most, where a run takes many seconds.
        device: where both run.
    """

    name: str
    reference: Callable[[], Any]
    ours: Callable[[], Any]
    agree: Callable[[Any, Any], bool] | None
    memory: bool = False
    samples: int | None = None
    limit: float | None = None
    repeats: int | None = None
    device: torch.device = CPU


def measured(row: Row, *, repeats: int) -> str:
    """One line of the table: times in ms, memory in MB, and reference divided by ours."""
    if row.agree is not None and not row.agree(row.reference(), row.ours()):
        sys.exit(f"error: {row.name}: the reference and ctm give different results")
    reference, ours = median_seconds(
        [row.reference, row.ours],
        repeats=repeats if row.repeats is None else min(repeats, row.repeats),
        warmups=1 if row.agree is None else 0,  # where the two are held against each other, they have just run
        device=row.device,
    )
    line = f"{row.name:<58}{_speed(row, reference):>11}{_speed(row, ours):>11}{reference / ours:>9.2f}"
    if row.memory:
        kept, needed = (peak_megabytes(side, device=row.device) for side in (row.reference, row.ours))
        line += f"{kept:>10.1f} MB{needed:>9.1f} MB{kept / needed:>10.2f}"
    if row.limit is not None:
        line += f"  {'at most' if reference / ours <= row.limit else 'MORE THAN'} {row.limit:g}"
    return line


def _speed(row: Row, seconds: float) -> str:
    if row.samples is None:
        return f"{seconds * 1e3:.1f} ms"
    rate = row.samples / seconds
    return f"{rate:.0f} /s" if rate >= 100 else f"{rate:.3g} /s"
