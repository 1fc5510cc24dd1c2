"""The bench of ``ctm predict`` runs, and its labels are those of whole windows."""

from __future__ import annotations

import numpy as np
import pytest

from bench.predict import TILE, WINDOW, _away, predict_lines
from ctm.predict.tiling import tile_starts, tile_weights


def test_memory_time_and_agreement_are_told():
    pytest.importorskip("rasterio", reason="needs the extra 'data'")
    _, line, agreement = predict_lines(sides=(1100,), windows=1)
    assert [word for word in line.split() if word in ("MB", "s", "Mpixel/s")] == ["MB", "s", "Mpixel/s"]
    same, compared = (int(word.replace(",", "")) for word in agreement.split(": ")[1].split(" pixels")[0].split(" of "))
    assert compared > 100_000
    assert same >= compared - 2  # ties but for rounding


@pytest.mark.parametrize("side", [1100, 1216, 1300])
def test_the_pixels_that_are_compared_come_from_one_tile_each(side):
    starts = tile_starts(side, TILE)
    tiles = np.zeros(side)
    for start, row in zip(starts, tile_weights(starts, TILE), strict=True):
        tiles[start : start + TILE] += row > 0
    compared = _away(starts, 0).any(axis=0)
    assert 0.2 < compared.mean() < 0.5
    assert (tiles[:WINDOW][compared] == 1).all()
