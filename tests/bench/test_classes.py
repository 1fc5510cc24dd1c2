"""The rows on many classes run, and compare what their names say."""

from __future__ import annotations

import pytest

from bench import classes
from bench.row import measured
from bench.sizes import Sizes


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows at a size of seconds."""
    tiny = Sizes(channels=3, image=(32, 32), patch=8, classes=1, depth=3, width=12, heads=2, batch=2)
    monkeypatch.setattr(classes, "SMALL", tiny)


def test_each_row_runs_and_its_name_fits_the_table():
    names = []
    for row in classes.class_rows():
        names.append(row.name)
        assert "÷" in measured(row, repeats=1)
    assert len(names) == 5
    assert max(map(len, names)) <= 56
    assert names[0].endswith("21 class tokens ÷ 1")
    assert names[1].endswith("151 class tokens ÷ 1")


def test_only_the_candidates_tokens_enter_the_shorter_sequence():
    *_, relevance = classes.class_rows()
    found, fewer = relevance.reference(), relevance.ours()
    assert found.maps.shape == fewer.maps.shape == (2, 150, 4, 4)
    assert fewer.logits.isnan().sum() == 2 * (150 - 8)
    assert not found.logits.isnan().any()
