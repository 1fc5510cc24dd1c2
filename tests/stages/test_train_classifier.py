"""Stage train_classifier: a gated model, its history, and a checkpoint folder that goes when it is no longer needed."""

from __future__ import annotations

import pytest

from ctm.errors import ModelError
from ctm.models.io import load_classifier
from ctm.training.history import read_history
from tests.stages.conftest import contents


def test_the_model_is_written_with_its_gates_classes_and_history(pipeline):
    folder = pipeline.path("train_classifier", "classifier")
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "model.json", "model.safetensors"]
    model, classes, inputs = load_classifier(folder)
    assert len(model.gates) == 2
    assert len(classes.names) == model.num_classes == 8
    assert (inputs.image_size, inputs.channels) == ((32, 32), 15)
    assert inputs.mean is not None
    history = read_history(folder / "history.csv")
    assert [row["epoch"] for row in history] == [1, 2]


def test_the_metrics_are_the_last_row_of_the_history(pipeline):
    last = read_history(pipeline.path("train_classifier", "classifier") / "history.csv")[-1]
    assert pipeline.metrics("train_classifier") == pytest.approx(last, rel=1e-5)


def test_a_second_run_writes_the_same_bytes_and_no_checkpoint_is_left(pipeline, tmp_path):
    pipeline.run("train_classifier", tmp_path)
    assert contents(tmp_path / "artifacts/classifier") == contents(pipeline.path("train_classifier", "classifier"))
    assert not [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]


def test_a_failed_training_writes_nothing_and_keeps_its_checkpoint(changed, pipeline, tmp_path):
    params = changed(train_classifier={"pruning_weight": 5.0, "gate_lr": 5.0}, gates={"initial": 0.1})
    with pytest.raises(ModelError, match="every head gate has closed"):
        pipeline.run("train_classifier", tmp_path, params=params)
    files = {(path.relative_to(tmp_path).parts[0], path.suffix) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {("checkpoints", ".ckpt")}
