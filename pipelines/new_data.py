"""Whether the raw data have changed since the run that was recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.errors import PipelineError
from pipelines.provenance import raw_data_digests

__all__ = ["RECORDED", "has_changed"]

RECORDED = (Path("models/preprocess.manifest.json"), Path("models/evaluate.manifest.json"))
"""The manifests that `record` writes."""


def has_changed(root: str, recorded: Iterable[Path]) -> bool:
    """Whether the data at ``root`` are others than those of a recorded run; true where nothing is recorded.

    What counts is the digest that the run was submitted with, or else the one of the files that it found.

    Args:
        root: a folder or ``s3://bucket/prefix``.
        recorded: manifests of the run; those that are not there are left out.

    Raises:
        PipelineError: nothing is known of the data here, or a manifest cannot be read.
        StorageError: the place cannot be listed.
    """
    before = {digest for file in recorded if file.is_file() for digest in _digests(file)}
    if not before:
        return True
    now = raw_data_digests(root)
    if not now:
        raise PipelineError(f"nothing is known of the data in {root}: there is no such folder, and no {root}.dvc.")
    return not before & set(now)


def _digests(file: Path) -> list[str]:
    """The digests of the raw data that a manifest names."""
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        label = manifest.get("labels", {}).get("raw_data")
        listing = manifest.get("inputs", {}).get("raw", {}).get("sha256")
    except (ValueError, AttributeError) as error:
        raise PipelineError(f"{file} is no manifest: {error}") from None
    # The listing knows names and sizes only: beside a label it would hide that the contents are others.
    return [digest for digest in [label or listing] if digest]
