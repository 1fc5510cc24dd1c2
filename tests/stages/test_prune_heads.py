"""Stage prune_heads: closed heads are gone, the rest computes the same, and a doubtful model is not written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ctm.errors import ModelError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.io import load_classifier, save_classifier


@pytest.fixture
def classifier(pipeline: Any, tmp_path: Path) -> Path:
    """The trained classifier with two of its six heads closed."""
    model, classes, inputs = load_classifier(pipeline.path("train_classifier", "classifier"))
    model.gates[0].log_alpha.data[1] = -1
    model.gates[1].log_alpha.data[0] = -1
    save_classifier(tmp_path / "classifier", model, classes=classes, inputs=inputs)
    return tmp_path / "classifier"


def test_closed_heads_are_removed_and_reported(pipeline, classifier, tmp_path):
    metrics = pipeline.run("prune_heads", tmp_path, classifier=classifier)
    gated, _, _ = load_classifier(classifier)
    pruned, classes, inputs = load_classifier(tmp_path / "artifacts/pruned")
    assert pruned.kept_heads == [[0, 2], [1, 2]]
    assert metrics["sparsity"] == pytest.approx(1 / 3)
    assert (metrics["heads_kept"], metrics["heads"], metrics["kept_per_block"]) == (4, 6, {"0": 2, "1": 2})
    assert 0 <= metrics["max_difference"] < 1e-4
    models = {"gated": gated, "pruned": pruned}
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert metrics["parameters"] == counts
    assert counts["pruned"] < counts["gated"]
    images = torch.randn(2, 15, 32, 32)
    torch.testing.assert_close(pruned(images), gated(images), atol=1e-5, rtol=1e-4)
    assert (len(classes.names), inputs.image_size) == (8, (32, 32))


def test_a_training_for_a_sparsity_ends_with_that_share_of_the_heads_removed(changed, pipeline, tmp_path):
    params = changed(train_classifier={"sparsity": 0.5, "pruning_weight": 0.0})
    trained = pipeline.run("train_classifier", tmp_path, params=params)
    metrics = pipeline.run("prune_heads", tmp_path, classifier=tmp_path / "artifacts/classifier")
    assert (trained["val_open_heads"], metrics["heads_kept"], metrics["sparsity"]) == (3, 3, 0.5)
    assert min(metrics["kept_per_block"].values()) >= 1


def test_times_stand_in_the_manifest_and_not_in_the_metrics(pipeline):
    assert set(pipeline.manifest("prune_heads")["timings"]) == {"forward_gated", "forward_pruned"}
    assert not re.search("second|time|forward", str(pipeline.metrics("prune_heads")))


def test_a_difference_above_the_tolerance_writes_nothing(changed, pipeline, classifier, tmp_path):
    params = changed(prune_heads={"tolerance": -1.0})  # even no difference at all is above it
    with pytest.raises(ModelError, match=r"differs from the gated one by .* more than prune_heads\.tolerance -1"):
        pipeline.run("prune_heads", tmp_path / "out", params=params, classifier=classifier)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def loud_though_closed(model: ClassTokenViT) -> None:
    model.attentions[0].qkv.weight.data[2 * 24 + 8] = torch.inf  # of the values of head 1: zero times infinity


def no_number(model: ClassTokenViT) -> None:
    model.head.bias.data[0] = torch.nan


def all_closed(model: ClassTokenViT) -> None:
    for gate in model.gates:
        gate.log_alpha.data.fill_(-1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (loud_though_closed, "differs from the gated one by nan"),
        (no_number, "differs from the gated one by nan"),
        (all_closed, "no head is open"),
    ],
)
def test_a_spoilt_model_is_not_written(pipeline, classifier, tmp_path, spoil, message):
    model, classes, inputs = load_classifier(classifier)
    spoil(model)
    save_classifier(classifier, model, classes=classes, inputs=inputs)
    with pytest.raises(ModelError, match=message):
        pipeline.run("prune_heads", tmp_path / "out", classifier=classifier)
    assert not (tmp_path / "out/artifacts/pruned").exists()
