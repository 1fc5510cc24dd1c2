"""SIGTERM and Ctrl-C end a run in order: at once, or when the work that has deferred it says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from ctm.runtime.preemption import Preempted, end_on_signals, preemption_deferred

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True, params=SIGNALS, ids=lambda number: number.name)
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    """The signal that asks; both are handled."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    end_on_signals()
    yield request.param
    for each, handler in before.items():
        signal.signal(each, handler)


def ask_to_end(number: int) -> None:
    os.kill(os.getpid(), number)


def test_it_is_raised_at_once_where_nothing_defers_it_with_the_exit_code_of_the_signal(number: int):
    with pytest.raises(Preempted) as ended:
        ask_to_end(number)
    assert ended.value.exit_code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]


def test_work_that_defers_it_sees_the_request_and_ends_itself(number: int):
    with preemption_deferred() as request:
        assert not request.made
        ask_to_end(number)
        assert request.made
        request.made = False  # as work does that has seen it, which then raises what it wants


def test_work_that_ends_before_it_has_seen_the_request_is_the_last(number: int):
    with pytest.raises(Preempted), preemption_deferred():
        ask_to_end(number)


def test_after_the_work_it_is_raised_at_once_again(number: int):
    with preemption_deferred():
        pass
    with pytest.raises(Preempted):
        ask_to_end(number)


@pytest.mark.parametrize("patient", [False, True])
def test_the_second_of_the_keyboard_waits_for_patient_work_alone(number: int, patient: bool):
    went_on = False
    with pytest.raises(Preempted), preemption_deferred(patient=patient):  # noqa: PT012 - where in it, is the question
        ask_to_end(number)
        ask_to_end(number)
        went_on = True
    assert went_on == (patient or number == signal.SIGTERM)


def test_it_is_no_error_that_a_stage_could_take_for_its_own():
    assert not issubclass(Preempted, Exception)


def test_a_forked_process_ends_as_if_nothing_had_been_said(number: int):
    child = os.fork()
    if not child:
        ask_to_end(number)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
