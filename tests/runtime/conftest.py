"""Files that tests of the runtime lay out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest


def folder(root: Path, **files: str) -> Path:
    """Writes files below a folder."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def change_environment(monkeypatch: pytest.MonkeyPatch, change: Mapping[str, str | None]) -> None:
    """Sets variables, and removes those that are None."""
    for name, value in change.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
