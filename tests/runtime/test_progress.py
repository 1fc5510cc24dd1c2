"""Progress passes every item on, and short work in a log file stays silent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ctm.runtime.progress import track


def test_every_item_comes_through_in_order():
    assert list(track(range(100), description="numbers")) == list(range(100))
    assert list(track(iter("abc"), description="letters", total=3)) == ["a", "b", "c"]


def test_items_are_taken_one_by_one():
    taken = []

    def items() -> Iterator[int]:
        for number in range(3):
            taken.append(number)
            yield number

    for number in track(items(), description="numbers"):
        assert taken[-1] == number
        assert len(taken) == number + 1


def test_short_work_writes_nothing_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]):
    list(track(range(10_000), description="numbers"))
    assert capfd.readouterr() == ("", "")


def test_longer_work_writes_plain_lines_there(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr("ctm.runtime.progress.SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO", logger="ctm"):
        list(track(["a", "b"], description="letters"))
        list(track(iter("ab"), description="letters", start=1000))
    assert caplog.messages == [
        "  letters: 1 of 2, 0 s left",
        "  letters: 2 of 2, 0 s left",
        "  letters: 1,001",
        "  letters: 1,002",
    ]
