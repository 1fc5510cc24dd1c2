"""What the tests of the trainings share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from ctm.data.shards import ShardFolder
from ctm.models.segmenter import save_segmenter
from ctm.params import Params
from ctm.runtime.context import Context, Precision
from ctm.training.segmenter import train_segmenter
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


@pytest.fixture
def fit(tiny_params: Params, tiny_shards: ShardFolder, masks: ShardFolder, tmp_path: Path) -> Callable[..., Any]:
    """Trains a segmenter in a folder of that name, on the module's masks unless others are given."""

    def made(
        name: str,
        *,
        shards: ShardFolder = tiny_shards,
        masks: ShardFolder = masks,
        seed: int = 0,
        precision: Precision = "fp32",
        resume: bool = True,
        **settings: Any,
    ) -> Any:
        return train_segmenter(
            shards,
            masks,
            image_size=(32, 32),
            training=tiny_params.train_segmenter.model_copy(update=settings),
            seed=seed,
            precision=precision,
            context=Context(device="cpu", workers=0, checkpoints=tmp_path / name / "checkpoints", resume=resume),
        )

    return made


@pytest.fixture
def train(fit: Callable[..., Any], tiny_shards: ShardFolder, tmp_path: Path) -> Callable[..., tuple[bytes, Any]]:
    """Trains as ``fit`` does, and gives the bytes of the written weights, and the history."""

    def trained(name: str = "run", **settings: Any) -> tuple[bytes, Any]:
        model, spec, inputs, history = fit(name, **settings)
        assert not model.training
        folder = tmp_path / name / "model"
        save_segmenter(folder, model, spec, classes=tiny_shards.classes, inputs=inputs)
        return (folder / "model.safetensors").read_bytes(), history

    return trained
