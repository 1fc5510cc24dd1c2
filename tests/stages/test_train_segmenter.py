"""Stage train_segmenter: a segmenter at its own image size, from pseudo-masks alone."""

from __future__ import annotations

import pytest

from ctm.models.segmenter import load_segmenter, read_supervision
from ctm.training.history import read_history
from tests.stages.conftest import contents


def test_the_model_is_written_with_classes_and_history(pipeline):
    folder = pipeline.path("train_segmenter", "segmenter")
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "model.json", "model.safetensors"]
    _, classes, inputs = load_segmenter(folder)
    assert len(classes.names) == 8
    assert (inputs.image_size, inputs.channels) == ((32, 32), 15)
    last = read_history(folder / "history.csv")[-1]
    assert pipeline.metrics("train_segmenter") == pytest.approx(last, rel=1e-5)
    assert read_supervision(folder) == "pseudomasks"


def test_what_has_learned_the_truth_says_so(changed, pipeline, tmp_path):
    params = changed(train_segmenter={"supervision": "truth", "epochs": 1})
    metrics = pipeline.run("train_segmenter", tmp_path, params=params)
    assert metrics["supervision"] == "truth"
    assert read_supervision(tmp_path / "artifacts/segmenter") == "truth"
    load_segmenter(tmp_path / "artifacts/segmenter")


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_metrics_are_those_of_the_last_round(changed, pipeline, tmp_path, keep):
    params = changed(train_segmenter={"self_training": 1, "epochs": 1, "keep": keep})
    metrics = pipeline.run("train_segmenter", tmp_path, params=params)
    history = read_history(tmp_path / "artifacts/segmenter" / "history.csv")
    assert [(row["round"], row["epoch"]) for row in history] == [(0, 1), (1, 2)]
    assert metrics == pytest.approx(history[-1], rel=1e-5)
    assert not list((tmp_path / "checkpoints").rglob("*.ckpt"))


def test_shards_without_any_truth_give_the_same_bytes(pipeline, tiny_shards, rewrite, tmp_path):
    blind = rewrite(tiny_shards, {"mask.png": None})
    assert not any(blind.split("train").has(index, "mask.png") for index in range(24))
    pipeline.run("train_segmenter", tmp_path, shards=blind.path)
    assert contents(tmp_path / "artifacts/segmenter") == contents(pipeline.path("train_segmenter", "segmenter"))


def test_its_image_size_may_differ_from_the_classifiers(changed, pipeline, tmp_path):
    pipeline.run("train_segmenter", tmp_path, params=changed(train_segmenter={"image_size": (48, 64), "epochs": 1}))
    assert load_segmenter(tmp_path / "artifacts/segmenter")[2].image_size == (48, 64)
