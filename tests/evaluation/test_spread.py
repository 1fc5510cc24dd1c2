"""Mean and standard deviation over seeds."""

from __future__ import annotations

import pytest

from ctm.evaluation.spread import Spread, spread


def test_the_standard_deviation_is_that_of_a_sample():
    found = spread([2, 4, 6])
    assert found == Spread(pytest.approx(4.0), pytest.approx(2.0), 3)


def test_one_run_has_no_standard_deviation_and_keeps_its_value_exactly():
    assert spread([0.1 + 0.2]) == Spread(0.1 + 0.2, None, 1)


def test_missing_values_do_not_count():
    assert spread([None, 1.0, 3.0]) == Spread(2.0, pytest.approx(2**0.5), 2)
    assert spread([None]) is None
    assert spread([]) is None
