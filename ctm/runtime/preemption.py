"""SIGTERM, with which a cluster takes a machine away: a run ends in order, and its exit code says that it can go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["EXIT_CODE", "Preempted", "Request", "end_on_sigterm", "preemption_deferred"]

EXIT_CODE = 128 + signal.SIGTERM
"""143, as of a process that the signal has ended: Kubeflow starts a task that fails again, as often as it may."""


class Preempted(BaseException):
    """The process was asked to end; no error of the work, so no ``except Exception`` holds it up.

    Its text, if it has one, says what the same command will do.
    """


@dataclass
class Request:
    """Whether the process has been asked to end."""

    made: bool = False


_requests: list[Request] = []
"""Of the work under way that ends itself when it is asked to."""


def end_on_sigterm() -> None:
    """From now on SIGTERM raises ``Preempted`` in the main thread, or waits while work has deferred it.

    The first process of a container ignores the signal unless it has said what to do with it.
    """
    signal.signal(signal.SIGTERM, _handler(os.getpid()))


@contextmanager
def preemption_deferred() -> Iterator[Request]:
    """For work that ends itself: it looks at the request after each step, saves its state and raises ``Preempted``.

    Raises:
        Preempted: at the end, if the work has ended before it saw the request.
    """
    request = Request()
    _requests.append(request)
    try:
        yield request
    finally:
        _requests.remove(request)
    if request.made:
        raise Preempted


def _handler(process: int) -> Callable[[int, FrameType | None], None]:
    def on_sigterm(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker of a data loader, before it has handlers of its own
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not _requests:
            raise Preempted
        for request in _requests:
            request.made = True

    return on_sigterm
