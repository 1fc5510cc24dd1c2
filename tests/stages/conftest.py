"""What the tests of stages share: runs of one part, and what lies in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctm.params import Params, stage_config
from ctm.runtime.context import Context, Part
from ctm.stages import STAGES


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an artifact."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="session")
def extract_part(pipeline: Any) -> Callable[..., Any]:
    """Extracts the pseudo-masks of one part into a folder; gives the metrics."""

    def extract(params: Params, part: Part, folder: Path, **inputs: Path) -> Any:
        stage = STAGES["extract_pseudomasks"]
        context = Context(device="cpu", workers=0, checkpoints=folder / "unused", resume=True, part=part)
        given = {**pipeline.inputs("extract_pseudomasks"), **inputs}
        return stage.run(stage_config(params, stage.config), context, **given, pseudomasks=folder)

    return extract
