"""What the tests of the trainings share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from ctm.params import Params
from tests.stage_commands import Commands


@pytest.fixture
def trainings_of(pipeline: Any, changed: Callable[..., Params], tmp_path: Path) -> Callable[..., Commands]:
    """Makes the trainings of a stage, with settings of its section."""

    def make(stage: str, *, precision: str = "fp32", **settings: Any) -> Commands:
        return Commands(stage, changed(precision=precision, **{stage: settings}), pipeline.inputs(stage), tmp_path)

    return make


@pytest.fixture
def power_cut() -> Callable[..., AbstractContextManager[None]]:
    """Ends a training, as if the machine went down, after so many steps of its optimisers: ``power_cut(step=4)``."""

    @contextmanager
    def cut_after(*, step: int) -> Iterator[None]:
        steps = itertools.count(1)

        def cut(*_: Any) -> None:
            if next(steps) == step:
                raise KeyboardInterrupt

        hook = register_optimizer_step_post_hook(cut)
        try:
            with pytest.raises(KeyboardInterrupt):
                yield
        finally:
            hook.remove()

    return cut_after
