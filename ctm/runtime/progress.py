"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

__all__ = ["track"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 15.0


def track(
    iterable: Iterable[T], *, description: str, total: int | None = None, unit: str = "it", start: int = 0
) -> Iterator[T]:
    """Yields the items of ``iterable`` while it shows how far it is; ``start`` of the ``total`` were there before.

    On a terminal a bar is drawn and removed at the end. Elsewhere a plain line is written every 15 seconds, so that
    a cluster's log stays readable, and nothing at all for work that is shorter than that.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        yield from tqdm(
            iterable,
            desc=description,
            total=total,
            initial=start,
            unit=unit,
            leave=False,
            dynamic_ncols=True,
            mininterval=0.2,
            delay=0.5,
            disable=not logger.isEnabledFor(logging.INFO),
        )
        return
    begun = said = time.monotonic()
    for done, item in enumerate(iterable, start=start + 1):
        yield item
        if (now := time.monotonic()) - said >= SECONDS_BETWEEN_LINES:
            said = now
            logger.info("  %s", _line(description, done, total, seconds=(now - begun) / (done - start)))


def _line(description: str, done: int, total: int | None, *, seconds: float) -> str:
    """How far it is, and how long the rest takes at so many seconds an item."""
    if total is None:
        return f"{description}: {done:,}"
    return f"{description}: {done:,} of {total:,}, {(total - done) * seconds:.0f} s left"
