"""history.csv: one row an epoch, for `dvc plots` and the report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctm.errors import ArtifactError

__all__ = ["kept_row", "read_history", "write_history"]


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
    """Reads the rows back; empty fields become None.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: no readable history ({error}). Run the stage that writes it again.") from error


def kept_row(history: Sequence[Mapping[str, Any]], *, keep: str, monitor: str) -> dict[str, Any]:
    """The row of the epoch whose weights were kept: the last, or the first of the best by ``monitor``.

    Args:
        history: rows of ``fit``.
        keep: ``best`` or ``last``.
        monitor: column that epochs are compared by; higher is better.
    """
    scored = [row for row in history if row.get(monitor) is not None]
    return dict(max(scored, key=lambda row: row[monitor]) if keep == "best" and scored else history[-1])
