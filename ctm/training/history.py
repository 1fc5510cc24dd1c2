"""history.csv: one row an epoch, for `dvc plots` and the report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["read_history", "write_history"]


def write_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows of ``fit``; figures have six significant digits, missing ones are empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        for row in history:
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            )


def read_history(path: Path) -> list[dict[str, float | None]]:
    """Reads the rows back; empty fields become None."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]
