"""The figures of a run by name: read from ``metrics/evaluate.json``, for whoever compares runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from ctm.errors import ArtifactError
from ctm.stage import Metrics

__all__ = ["figure", "figure_names", "parse_metrics", "read_metrics"]

WANTED = "Name a file that the stage evaluate wrote as its metrics."


def read_metrics(path: Path) -> Metrics:
    """The metrics in a file.

    Raises:
        ArtifactError: there is no such file, or it holds no metrics.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}. {WANTED}") from None
    return parse_metrics(text, origin=str(path))


def parse_metrics(text: str, *, origin: str) -> Metrics:
    """The metrics that a text holds.

    Raises:
        ArtifactError: it is no JSON object.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{origin}: no valid JSON: {error}. {WANTED}") from None
    if not isinstance(found, dict):
        raise ArtifactError(f"{origin}: expected an object, found {type(found).__name__}. {WANTED}")
    return found


def figure(metrics: Metrics, name: str) -> float | None:
    """The figure of a dotted name (``segmenter.val.miou``); None where it is missing, null or no finite number."""
    found: object = metrics
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def figure_names(metrics: Metrics, prefix: str = "") -> Iterator[str]:
    """The dotted names of all figures, those that are null as well."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from figure_names(value, f"{prefix}{name}.")
        elif not isinstance(value, str | list):
            yield f"{prefix}{name}"
