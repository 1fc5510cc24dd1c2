"""A figure over runs that differ only in their seed: its mean, and how much they differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

__all__ = ["Spread", "spread"]


@dataclass(frozen=True)
class Spread:
    """A figure of several runs.

    Attributes:
        mean: the arithmetic mean.
        sd: the standard deviation of a sample (divided by n - 1), in the figure's own unit; None for one run.
        count: n, in how many runs the figure exists.
    """

    mean: float
    sd: float | None
    count: int


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and standard deviation of the values that exist; None where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(fmean(known), stdev(known) if len(known) > 1 else None, len(known))
