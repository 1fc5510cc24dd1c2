"""history.csv: what is written comes back, to six digits."""

from __future__ import annotations

from pathlib import Path

from ctm.training.history import read_history, write_history


def test_rows_come_back_with_gaps_as_none(tmp_path: Path):
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
