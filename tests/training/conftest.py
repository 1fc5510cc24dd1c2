"""What the tests of the trainings share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctm.params import Params
from tests.stage_commands import Commands


@pytest.fixture
def trainings_of(pipeline: Any, tiny_params: Params, tmp_path: Path) -> Callable[..., Commands]:
    """Makes the trainings of a stage, with settings of its section."""

    def make(stage: str, *, precision: str = "fp32", **settings: Any) -> Commands:
        section = getattr(tiny_params, stage).model_copy(update=settings)
        params = tiny_params.model_copy(update={stage: section, "precision": precision})
        return Commands(stage, params, pipeline.inputs(stage), tmp_path)

    return make
