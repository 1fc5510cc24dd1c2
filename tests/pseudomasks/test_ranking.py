"""Mean average precision without torch, and the rule by which a classifier has learned."""

from __future__ import annotations

import numpy as np
import pytest

from ctm.pseudomasks.ranking import average_precision, has_learned, rank


def test_average_precision_is_the_mean_precision_at_the_positives():
    scores, present = np.array([4.0, 3, 2, 1]), np.array([True, False, True, False])
    assert average_precision(scores, present) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(scores, np.zeros(4, dtype=bool)) is None


def test_equal_scores_share_the_last_of_their_ranks():
    assert average_precision(np.zeros(4), np.array([True, False, False, False])) == 0.25
    for order in ([0, 1, 2], [2, 1, 0]):
        scores, present = np.array([1.0, 1.0, 0.0])[order], np.array([True, False, True])[order]
        assert average_precision(scores, present) == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_it_equals_the_area_under_the_steps_of_precision_over_recall(seed):
    rng = np.random.default_rng(seed)
    scores, present = rng.integers(-9, 9, 60) / 4, rng.random(60) < 0.3
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        hits = present[scores >= threshold]
        area += (hits.sum() / present.sum() - recall) * hits.mean()
        recall = hits.sum() / present.sum()
    assert average_precision(scores, present) == pytest.approx(area)


def test_classes_without_a_positive_count_neither_in_the_mean_nor_in_chance():
    logits = np.array([[3.0, 9], [-1, 9], [-2, 9], [-3, 9]])
    labels = np.array([[True, False], [False, False], [True, False], [False, False]])
    # Two of four: the six orders have average precisions of 1, 5/6, 3/4, 7/12, 1/2 and 5/12.
    assert rank(logits, labels) == (pytest.approx(5 / 6), pytest.approx(49 / 72), [pytest.approx(5 / 6), None])
    assert rank(logits[:0], labels[:0]) == (None, None, [None, None])


@pytest.mark.parametrize(("images", "positives"), [(1, 1), (8, 1), (8, 3), (8, 8), (200, 10)])
def test_a_random_ranking_is_at_chance_on_average(images, positives):
    rng = np.random.default_rng(0)
    present = np.arange(images) < positives
    found = [average_precision(rng.normal(size=images), present) for _ in range(4000)]
    chance = rank(np.zeros((images, 1)), present[:, None]).chance
    assert np.mean(found) == pytest.approx(chance, abs=0.01)
    assert not has_learned(chance, chance) or chance == 1


def test_a_fifth_of_the_way_from_chance_to_perfection_is_learning():
    assert not has_learned(0.27, 0.1)
    assert has_learned(0.29, 0.1)
    assert has_learned(None, None)  # nothing is known against it
