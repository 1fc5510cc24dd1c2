"""Working ahead: a function runs in threads, and its results come in order. No torch here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ctm.runtime.context import available_cores

__all__ = ["helpers", "mapped"]

T = TypeVar("T")
R = TypeVar("R")

MOST = 4
"""Threads beyond this number find no work: a mask takes milliseconds, and the model gives them one after another."""


def mapped(function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """As ``map``, but up to ``ahead`` items are under way in threads before the first of their results is taken.

    Items are drawn in the caller's thread, one for each result that is taken. An error of an item or of the function is
    raised here; what is not begun by then is dropped. With one thread the function has one item at a time, in order.

    Args:
        function: what is done with an item; with several threads it must not depend on what is done with others.
        items: what it is done with; an item lives until its result has been taken.
        threads: how many run beside the caller's own, at least 1.
        ahead: how many items may wait or be worked on.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ctm-ahead")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def helpers() -> int:
    """How many threads may help the one that runs the model: the other cores, at least 1 and at most 4."""
    return max(1, min(available_cores() - 1, MOST))
