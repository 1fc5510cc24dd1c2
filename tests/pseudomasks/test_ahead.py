"""Working ahead: results in order, a bounded number of items under way, errors that come out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from ctm.pseudomasks.ahead import helpers, mapped


def test_results_come_in_the_order_of_the_items_whoever_is_first_done():
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return -number

    assert list(mapped(slow_first, range(20), threads=3, ahead=5)) == [-number for number in range(20)]
    assert list(mapped(slow_first, [], threads=1, ahead=5)) == []


@pytest.mark.parametrize("ahead", [0, 1, 7])
def test_no_more_items_are_drawn_than_may_be_ahead(ahead):
    drawn = []

    def items() -> Iterator[int]:
        for number in range(40):
            drawn.append(number)
            yield number

    for taken, _ in enumerate(mapped(str, items(), threads=2, ahead=ahead), start=1):
        assert len(drawn) <= taken + ahead


def test_the_work_is_done_beside_the_caller_while_it_draws_the_next_item():
    started = threading.Event()

    def work(number: int) -> str:
        started.set()
        return threading.current_thread().name

    def items() -> Iterator[int]:
        yield 1
        assert started.wait(5)
        assert threading.current_thread() is threading.main_thread()
        yield 2

    assert all(name.startswith("ctm-ahead") for name in mapped(work, items(), threads=1, ahead=3))


def test_one_thread_takes_the_items_one_by_one():
    seen: list[int] = []
    list(mapped(seen.append, range(50), threads=1, ahead=10))
    assert seen == list(range(50))


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three is damaged")
    return number


def broken_source() -> Iterator[int]:
    yield from range(3)
    raise OSError("the disk is gone")


@pytest.mark.parametrize("ahead", [0, 2, 9])
def test_errors_of_the_work_and_of_the_items_come_out_and_leave_no_thread(ahead):
    with pytest.raises(ValueError, match="three is damaged"):
        list(mapped(fail_at_three, range(9), threads=2, ahead=ahead))
    with pytest.raises(OSError, match="disk is gone"):
        list(mapped(fail_at_three, broken_source(), threads=2, ahead=ahead))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ctm-ahead")]


def test_a_reader_that_stops_early_leaves_no_thread():
    results = mapped(str, range(100), threads=2, ahead=4)
    assert next(results) == "0"
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ctm-ahead")]


def test_threads_add_up_as_the_caller_does():
    # Sums of many values are split among torch's own threads: other numbers of these would give other last digits.
    assert (
        list(mapped(lambda _: torch.get_num_threads(), range(3), threads=2, ahead=3)) == [torch.get_num_threads()] * 3
    )


def test_there_is_always_a_helper_and_never_a_crowd():
    assert 1 <= helpers() <= 4
