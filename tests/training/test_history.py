"""history.csv: what is written comes back, to six digits."""

from __future__ import annotations

import pytest

from ctm.errors import ArtifactError
from ctm.training.history import kept_row, read_history, write_history


def test_rows_come_back_with_gaps_as_none(tmp_path):
    rows = [
        {"epoch": 1, "train_loss": 0.123456789, "val_map": None, "lr": 1e-05},
        {"epoch": 2, "train_loss": 1234567.0, "val_map": 1.0, "lr": 0.0},
    ]
    write_history(tmp_path / "history.csv", rows)
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,train_loss,val_map,lr\n1,0.123457,,1e-05\n2,1.23457e+06,1,0\n"
    )
    assert read_history(tmp_path / "history.csv") == [
        {"epoch": 1, "train_loss": 0.123457, "val_map": None, "lr": 1e-05},
        {"epoch": 2, "train_loss": 1234570, "val_map": 1, "lr": 0},
    ]


@pytest.mark.parametrize(
    ("scores", "keep", "epoch"),
    [([0.2, 0.7, 0.7, 0.4], "best", 2), ([0.2, 0.7, 0.7, 0.4], "last", 4), ([None, None], "best", 2)],
)
def test_the_kept_row_is_the_first_of_the_best_or_the_last(scores, keep, epoch):
    rows = [{"epoch": number + 1, "val_map": score} for number, score in enumerate(scores)]
    assert kept_row(rows, keep=keep, monitor="val_map")["epoch"] == epoch


@pytest.mark.parametrize("content", [None, "epoch,loss\n1,high\n"])
def test_a_missing_or_damaged_history_names_the_file(tmp_path, content):
    path = tmp_path / "history.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArtifactError, match=r"history\.csv: no readable history"):
        read_history(path)
