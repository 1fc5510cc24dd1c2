"""A training whose container is killed, or asked to end, goes on from its checkpoint to the very same bytes."""
# No `from __future__ import annotations` here: kfp reads the annotations themselves.

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp import dsl

from components.factory import compiled, stage_component
from ctm.params import load_preset
from ctm.stages import STAGES
from pipelines.errors import PipelineError
from pipelines.local import Place, run_local
from tests.containers.conftest import IMAGES

pytestmark = pytest.mark.slow

EPOCHS = 50


@pytest.fixture(scope="module")
def package(tiny_overrides) -> str:
    """The first two stages as a pipeline."""
    params = load_preset("demo", [*tiny_overrides, f"train_classifier.epochs={EPOCHS}"])
    preprocess, train_classifier = (
        stage_component(STAGES[name], params) for name in ("preprocess", "train_classifier")
    )

    @dsl.pipeline(name="training")
    def pipeline(raw: str):
        prepared = preprocess(raw=raw).set_container_image(IMAGES["data"])
        train_classifier(
            shards=prepared.outputs["shards"], shards_digest=prepared.outputs["shards_digest"]
        ).set_container_image(IMAGES["train"])

    return compiled(pipeline)


@pytest.fixture(scope="module")
def undisturbed(engine, package, demo_raw, tmp_path_factory) -> Path:
    """The classifier of a training that nothing has happened to."""
    root = tmp_path_factory.mktemp("undisturbed")
    *_, done = run_local(package, arguments={}, place=Place(root / "kfp", root / "checkpoints", str(demo_raw)))
    return done.folder / "classifier"


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_a_killed_training_that_is_started_again_resumes(engine, package, undisturbed, demo_raw, tmp_path, log, signal):
    place = Place(tmp_path / "kfp", tmp_path / "checkpoints", str(demo_raw))
    killer = threading.Thread(target=kill_after_first_checkpoint, args=(engine, place, signal))
    killer.start()
    try:
        with pytest.raises(PipelineError, match=r"^train-classifier \(exit code"):
            run_local(package, arguments={}, place=place)
    finally:
        killer.join()
    *_, done = run_local(package, arguments={}, place=place)
    assert any("ended by SIGTERM" in line for line in log) == (signal == "SIGTERM")
    said = list(after_the_kill(log))
    assert any("resuming after epoch" in line for line in said)
    assert any(f"epoch {EPOCHS}/{EPOCHS}" in line for line in said)
    assert not any("  epoch 1/" in line for line in said), "it started anew"
    for name in ("model.safetensors", "model.json", "history.csv"):
        assert (done.folder / "classifier" / name).read_bytes() == (undisturbed / name).read_bytes()
    assert not list(place.checkpoints.rglob("*.ckpt"))


def kill_after_first_checkpoint(engine, place: Place, signal: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(place.checkpoints.rglob("*.ckpt")):
        time.sleep(0.005)
    root = str(place.pipeline_root.resolve())
    for container in engine.client.containers.list():
        if root in {mount["Source"] for mount in container.attrs["Mounts"]}:
            container.kill(signal)


def after_the_kill(log: list[str]) -> Iterator[str]:
    """What the second training wrote."""
    starts = [number for number, line in enumerate(log) if "Train the class-token transformer" in line]
    assert len(starts) == 2
    yield from log[starts[1] :]
