"""MaskScore against confusion matrices counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ctm.data.classes import ClassTable
from ctm.errors import ArtifactError
from ctm.evaluation.masks import MaskScore

CLASSES = ClassTable(("grass", "water", "road"))


def score(*pairs: tuple[list[int], list[int]]) -> MaskScore:
    """A score after one image of one row for each pair of prediction and truth."""
    result = MaskScore(CLASSES)
    for prediction, truth in pairs:
        result.update(np.array([prediction], dtype=np.uint8), np.array([truth], dtype=np.uint8))
    return result


def test_scores_equal_those_counted_by_hand():
    # grass: 2 right, 1 taken for water -> 2 / 3; water: 1 right, joined by one grass -> 1 / 2; road: 2 of 2
    result = score(([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 2, 2])).compute()
    assert result["classes"] == pytest.approx({"grass": 2 / 3, "water": 1 / 2, "road": 1.0})
    assert result["miou"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert result["pixel_accuracy"] == pytest.approx(5 / 6)
    assert result["coverage"] == 1.0


def test_pixels_without_truth_change_nothing():
    with_ignored = score(([0, 1, 2, 255, 1], [0, 1, 255, 255, 255]))
    assert with_ignored.compute() == score(([0, 1], [0, 1])).compute()


def test_no_decision_on_a_valid_pixel_is_a_miss_of_its_class_and_lowers_coverage():
    result = score(([0, 255, 1, 1], [0, 0, 1, 1]))
    assert result.compute() == {
        "miou": pytest.approx((1 / 2 + 1) / 2),
        "pixel_accuracy": 0.75,
        "coverage": 0.75,
        "classes": {"grass": 0.5, "water": 1.0, "road": None},
    }
    assert result.matrix.tolist() == [[1, 0, 0, 1], [0, 2, 0, 0], [0, 0, 0, 0]]


def test_a_class_predicted_but_absent_from_the_truth_is_not_in_the_mean():
    result = score(([0, 0, 0, 2], [0, 0, 0, 0])).compute()
    assert result["classes"]["road"] is None
    assert result["miou"] == pytest.approx(3 / 4)


def test_one_matrix_over_the_split_not_a_mean_over_images():
    result = score(([0], [0]), ([1, 1, 1], [0, 0, 0])).compute()
    assert result["classes"]["grass"] == pytest.approx(1 / 4)


def test_without_any_truth_all_scores_are_none_and_valid_json():
    result = score(([0, 1], [255, 255])).compute()
    assert result["miou"] is result["pixel_accuracy"] is result["coverage"] is None
    assert json.loads(json.dumps(result, allow_nan=False))["classes"] == {"grass": None, "water": None, "road": None}


def test_the_background_counts_as_a_class():
    result = MaskScore(ClassTable(("background", "cat"), background=0))
    result.update(np.array([[0, 1]], dtype=np.uint8), np.array([[0, 0]], dtype=np.uint8))
    assert result.compute()["classes"] == {"background": 0.5, "cat": None}


def test_masks_of_another_size_are_refused_with_both_sizes():
    with pytest.raises(ArtifactError, match=r"2×3.*4×4"):
        MaskScore(CLASSES).update(np.zeros((2, 3), dtype=np.uint8), np.zeros((4, 4), dtype=np.uint8))


@pytest.mark.parametrize(("prediction", "truth", "what"), [([7], [0], "predicted mask"), ([0], [7], "truth")])
def test_values_that_are_no_class_are_refused(prediction, truth, what):
    with pytest.raises(ArtifactError, match=f"{what} has the value 7.*3 classes"):
        score((prediction, truth))
