"""The confusion matrix as a file that Kubeflow can draw, and as a square or pairs for the report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ctm.evaluation.confusion import MOST_CLASSES, MOST_PAIRS, ConfusedPair, confusion_json, confusion_table

COUNTS = np.array([[6, 2, 0], [0, 0, 0], [1, 0, 3]])
NAMES = ("grass", 'wa"ter', "straße")


def test_the_file_holds_classes_and_counts_and_those_without_truth_stay_in():
    text = confusion_json(COUNTS, NAMES)
    assert json.loads(text) == {"classes": list(NAMES), "rows": [[6, 2, 0], [0, 0, 0], [1, 0, 3]]}
    assert text.endswith("}\n")


def test_the_file_has_a_line_for_each_true_class():
    assert "    [6, 2, 0],\n    [0, 0, 0],\n    [1, 0, 3]\n" in confusion_json(COUNTS, NAMES)


def test_counts_of_many_images_stay_whole():
    assert json.loads(confusion_json(np.array([[2**53 + 1]]), ["a"]))["rows"] == [[2**53 + 1]]


def test_without_truth_the_file_is_a_square_of_zeros_and_the_report_has_no_table():
    empty = np.zeros((2, 2), dtype=np.int64)
    assert json.loads(confusion_json(empty, ["a", "b"])) == {"classes": ["a", "b"], "rows": [[0, 0], [0, 0]]}
    assert confusion_table(empty, ["a", "b"]) is None


def test_a_row_shares_out_the_pixels_of_its_class():
    table = confusion_table(COUNTS, NAMES)
    assert table is not None
    assert table.shares == [[0.75, 0.25, 0.0], None, [0.25, 0.0, 0.75]]
    assert not table.pairs


def test_more_classes_than_a_square_can_show_give_the_most_frequent_confusions():
    size = MOST_CLASSES + 1
    names = [f"class {k}" for k in range(size)]
    counts = np.eye(size, dtype=np.int64) * 100
    counts[4, 2], counts[1, 3], counts[3, 1] = 300, 50, 50
    table = confusion_table(counts, names)
    assert table is not None
    assert not table.shares
    assert table.pairs == [
        ConfusedPair("class 4", "class 2", 0.75, 300),
        ConfusedPair("class 1", "class 3", pytest.approx(1 / 3), 50),
        ConfusedPair("class 3", "class 1", pytest.approx(1 / 3), 50),
    ]


def test_the_list_of_pairs_is_short():
    size = MOST_CLASSES + 1
    table = confusion_table(np.ones((size, size), dtype=np.int64), [str(k) for k in range(size)])
    assert table is not None
    assert len(table.pairs) == MOST_PAIRS
