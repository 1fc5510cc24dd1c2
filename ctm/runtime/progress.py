"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

__all__ = ["track"]

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 15.0


def track(
    iterable: Iterable[T], *, description: str, total: int | None = None, unit: str = "it", start: int = 0
) -> Iterator[T]:
    """Yields the items of ``iterable`` while it shows how far it is; ``start`` of the ``total`` were there before.

    On a terminal a bar is drawn and removed at the end. Elsewhere a plain line is written every 15 seconds, so that
    a cluster's log stays readable, and nothing at all for work that is shorter than that.
    """
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else SECONDS_BETWEEN_LINES
    bar = tqdm(
        iterable,
        desc=description,
        total=total,
        initial=start,
        unit=unit,
        leave=False,
        dynamic_ncols=terminal,
        ncols=None if terminal else 80,
        ascii=not terminal,
        mininterval=interval,
        maxinterval=interval,
        delay=interval if not terminal else 0.5,
        disable=not logging.getLogger("ctm").isEnabledFor(logging.INFO),
    )
    yield from bar
