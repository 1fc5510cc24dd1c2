"""The bench's plain loop over the classes has exactly the mIoU of ctm's confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest

from bench.evaluation import evaluation_rows, miou_by_classes, miou_by_confusion


def test_both_sides_of_every_row_of_evaluation_give_the_same() -> None:
    rows = list(evaluation_rows(masks=2))
    assert len(rows) == 3
    for row in rows:
        assert row.agree is not None
        assert row.agree(row.reference(), row.ours()), row.name


@pytest.mark.parametrize("classes", [2, 5, 255])
def test_both_count_ignored_undecided_and_missing_classes_alike(classes) -> None:
    rng = np.random.default_rng(classes)
    values = np.array([*range(min(classes, 4)), classes - 1, 255], dtype=np.uint8)
    pairs = [(rng.choice(values, (7, 9)), rng.choice(values, (7, 9))) for _ in range(3)]
    assert miou_by_classes(pairs, classes) == miou_by_confusion(pairs, classes) > 0
