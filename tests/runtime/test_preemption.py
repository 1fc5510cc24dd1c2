"""SIGTERM ends a run in order: at once, or when the work that has deferred it says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from ctm.runtime.preemption import Preempted, end_on_sigterm, preemption_deferred


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    end_on_sigterm()
    yield
    signal.signal(signal.SIGTERM, before)


def ask_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_is_raised_at_once_where_nothing_defers_it():
    with pytest.raises(Preempted):
        ask_to_end()


def test_work_that_defers_it_sees_the_request_and_ends_itself():
    with preemption_deferred() as request:
        assert not request.made
        ask_to_end()
        assert request.made
        request.made = False  # as work does that has seen it, which then raises what it wants


def test_work_that_ends_before_it_has_seen_the_request_is_the_last():
    with pytest.raises(Preempted), preemption_deferred():
        ask_to_end()


def test_after_the_work_it_is_raised_at_once_again():
    with preemption_deferred():
        pass
    with pytest.raises(Preempted):
        ask_to_end()


def test_it_is_no_error_that_a_stage_could_take_for_its_own():
    assert not issubclass(Preempted, Exception)


def test_a_forked_process_ends_as_if_nothing_had_been_said():
    child = os.fork()
    if not child:
        ask_to_end()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
