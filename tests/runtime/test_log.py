"""The log: plain lines on standard error, once each."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ctm.runtime.log import show_log


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    logger = logging.getLogger("ctm")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_a_message_is_one_plain_line_however_often_the_log_is_set_up(capsys: pytest.CaptureFixture[str]):
    show_log()
    show_log()
    logging.getLogger("ctm.training.loop").info("epoch %d", 3)
    logging.getLogger("ctm.training.loop").debug("hidden")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "epoch 3\n")


def test_other_libraries_do_not_chatter(capsys: pytest.CaptureFixture[str]):
    show_log()
    logging.getLogger("timm").info("loading")
    assert capsys.readouterr().err == ""
