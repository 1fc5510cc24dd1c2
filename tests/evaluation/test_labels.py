"""LabelScore against average precisions worked out by hand."""

from __future__ import annotations

import pytest
import torch

from ctm.data.classes import ClassTable
from ctm.evaluation.labels import LabelScore

CLASSES = ClassTable(("background", "cat", "dog"), background=0)


def test_average_precision_equals_the_hand_value():
    # cat, by falling logit: yes, no, yes, no -> (1/1 + 2/3) / 2; dog: no, yes, no, no -> 1/2
    score = LabelScore(CLASSES)
    score.update(torch.tensor([[3.0, -1.0], [2.0, 2.0]]), torch.tensor([[True, False], [False, False]]))
    score.update(torch.tensor([[1.0, 1.0], [-4.0, -2.0]]), torch.tensor([[True, True], [False, False]]))
    result = score.compute()
    assert result["classes"] == pytest.approx({"cat": 5 / 6, "dog": 1 / 2})
    assert result["map"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert result["chance_map"] == pytest.approx((49 / 72 + 25 / 48) / 2)  # of all orders of four


def test_accuracy_is_the_share_of_right_image_and_class_pairs():
    score = LabelScore(CLASSES)
    score.update(torch.tensor([[3.0, -1.0], [2.0, 2.0]]), torch.tensor([[True, False], [False, True]]))
    assert score.compute()["accuracy"] == pytest.approx(3 / 4)


def test_very_confident_logits_keep_their_order():
    score = LabelScore(CLASSES)
    score.update(
        torch.tensor([[30.0, 1.0], [20.0, 1.0], [25.0, 1.0]]), torch.tensor([[True, True], [False, True], [True, True]])
    )
    assert score.compute()["classes"]["cat"] == 1.0


def test_without_images_all_scores_are_none():
    assert LabelScore(CLASSES).compute() == {
        "map": None,
        "chance_map": None,
        "accuracy": None,
        "classes": {"cat": None, "dog": None},
    }
