"""SIGTERM, with which a cluster takes a machine away, and Ctrl-C: a run ends in order and can go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["Preempted", "Request", "end_on_signals", "preemption_deferred"]


class Preempted(BaseException):
    """The process was asked to end; no error of the work, so no ``except Exception`` holds it up.

    Its text, if it has one, says what the same command will do.
    """

    signal = signal.SIGTERM
    """Which signal asked. The exit code is that of a process that it has ended (143, 130), by which Kubeflow starts a
    task again, as often as it may."""

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal."""
        return 128 + self.signal


@dataclass
class Request:
    """Whether the process has been asked to end."""

    made: bool = False
    patient: bool = False
    """Whether a second Ctrl-C waits for the work, too."""


_requests: list[Request] = []
"""Of the work under way that ends itself when it is asked to."""


def end_on_signals() -> None:
    """From now on SIGTERM and Ctrl-C raise ``Preempted`` in the main thread, or wait while work has deferred it.

    The first process of a container ignores SIGTERM unless it has said what to do with it. A second Ctrl-C waits for
    patient work alone.
    """
    process = os.getpid()

    def ask(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker of a data loader, before it has handlers of its own
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        Preempted.signal = signal.Signals(number)
        asked_before = any(request.made for request in _requests)
        for request in _requests:
            request.made = True
        breaks = number == signal.SIGINT and asked_before and not any(request.patient for request in _requests)
        if breaks or not _requests:
            raise Preempted

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)


@contextmanager
def preemption_deferred(*, patient: bool = False) -> Iterator[Request]:
    """For work that ends itself: it looks at the request after each step, saves its state and raises ``Preempted``.

    Args:
        patient: whether a second Ctrl-C waits, too: for work that is short and must not be left half done.

    Raises:
        Preempted: at the end, if the work has ended before it saw the request.
    """
    request = Request(patient=patient)
    _requests.append(request)
    try:
        yield request
    finally:
        _requests.remove(request)
    if request.made:
        raise Preempted
