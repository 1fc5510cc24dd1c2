"""The bench's plain references compute what ctm computes, and its measuring tools measure."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from bench.measure import median_seconds, peak_megabytes
from bench.models import close, make_model, model_rows, nearest_everywhere, two_or_three
from bench.reference import (
    assign_paper_by_pixels,
    attention_maps_of_kept_matrices,
    breadth_first,
    mask_tokens_by_loops,
    paint_by_pixels,
    relevance_one_by_one,
)
from bench.row import Row, measured
from bench.sizes import Setting, Sizes
from ctm.models.pruning import prune_heads
from ctm.models.token_masking import mask_absent_tokens
from ctm.pseudomasks.assign import assign_paper
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.maps import class_maps

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Sizes(channels=2, image=(16, 16), patch=4, classes=5, depth=3, width=24, heads=4, batch=3)
IMAGES = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
def test_masking_by_loops_makes_the_same_draws(ratio):
    tokens, present = torch.randn(6, 5, 4), torch.rand(6, 5) < 0.3
    ours, theirs = (
        mask(tokens, present, ratio, torch.Generator().manual_seed(1))
        for mask in (mask_absent_tokens, mask_tokens_by_loops)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("closed", [0, 2])
def test_kept_matrices_give_the_same_attention_maps_gated_and_pruned(closed):
    model = make_model(TINY, closed=closed)
    for chosen in (model, prune_heads(model)):
        assert close(attention_maps_of_kept_matrices(chosen, IMAGES), chosen.attention_maps(IMAGES))


@pytest.mark.parametrize("blocks", [1, 3])
def test_relevance_one_by_one_gives_the_batched_maps(blocks):
    model, candidates = make_model(TINY, closed=1), two_or_three(TINY)
    theirs, logits = relevance_one_by_one(model, IMAGES, candidates, blocks)
    assert theirs[candidates].flatten(1).any(dim=1).all()
    ours = class_maps(model, IMAGES, candidates, MapConfig(blocks=blocks))
    assert close((theirs, logits), (ours.maps, ours.logits))


def test_assignment_by_pixels_paints_the_same_and_fills_with_a_nearest_value():
    generator = torch.Generator().manual_seed(2)
    for _ in range(10):
        arguments = torch.rand(3, 3, 2, generator=generator) ** 3, torch.rand(3, generator=generator), (13, 9)
        painted = paint_by_pixels(*arguments)
        np.testing.assert_array_equal(painted, assign_paper(*arguments, "ignore"))
        assert (painted == 255).any()
        assert nearest_everywhere(painted, assign_paper_by_pixels(*arguments))
        assert nearest_everywhere(painted, assign_paper(*arguments, "nearest"))


def test_the_check_of_the_fill_sees_a_value_that_is_not_nearest():
    painted = np.array([[0, 255, 255, 255, 1]], dtype=np.uint8)
    assert breadth_first(painted, painted != 255)[1].tolist() == [[0, 1, 2, 1, 0]]
    assert nearest_everywhere(painted, np.array([[0, 0, 0, 1, 1]], dtype=np.uint8))
    assert nearest_everywhere(painted, np.array([[0, 0, 1, 1, 1]], dtype=np.uint8))
    assert not nearest_everywhere(painted, np.array([[0, 1, 1, 1, 1]], dtype=np.uint8))
    assert not nearest_everywhere(painted, np.array([[1, 0, 0, 1, 1]], dtype=np.uint8))


def test_every_row_of_the_models_agrees_and_is_measured():
    lines = [measured(row, repeats=1) for row in model_rows(Setting(TINY))]
    assert len(lines) == 15
    assert all(" ms" in line for line in lines)


def test_the_rows_agree_in_bf16_too():
    rows = [row for row in model_rows(Setting(TINY, precision="bf16")) if row.agree is not None]
    assert all(row.agree(row.reference(), row.ours()) for row in rows)
    assert len(rows) == 10


def test_a_row_whose_sides_disagree_ends_the_bench():
    row = Row("wrong", lambda: torch.ones(2), lambda: torch.zeros(2), close)
    with pytest.raises(SystemExit, match="error: wrong"):
        measured(row, repeats=1)


@pytest.mark.parametrize(("limit", "words"), [(1e9, "at most 1e+09"), (1e-9, "MORE THAN 1e-09")])
def test_a_row_tells_whether_its_price_is_within_the_limit(limit, words):
    row = Row("price", lambda: torch.ones(2), lambda: torch.ones(2), None, limit=limit)
    assert measured(row, repeats=1).endswith(words)


def test_peak_memory_counts_what_is_held_at_once():
    def at_once() -> torch.Tensor:
        return torch.stack([torch.ones(250_000) for _ in range(4)])  # 4 MB in parts, and 4 MB

    def in_turn() -> float:
        return sum(float(torch.ones(250_000).sum()) for _ in range(4))

    assert peak_megabytes(at_once) == pytest.approx(8, rel=0.01)
    assert peak_megabytes(in_turn) == pytest.approx(1, rel=0.01)


def test_the_median_leaves_out_the_first_run():
    runs: list[int] = []

    def slow_at_first() -> None:
        runs.append(0)
        time.sleep(0.3 if len(runs) == 1 else 0.01)

    slow, fast = median_seconds([slow_at_first, lambda: None], repeats=3)
    assert 0.01 <= slow < 0.3
    assert fast < slow
    assert len(runs) == 4
