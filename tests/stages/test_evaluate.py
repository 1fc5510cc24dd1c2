"""Stage evaluate: the promised figures, and one self-contained page; without truth it still runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctm.data.classes import IGNORE
from ctm.data.shard_index import write_index
from ctm.data.shards import TRUTH, ShardFolder
from ctm.evaluation.masks import MaskScore
from ctm.evaluation.scoring import segment
from ctm.models.io import load_classifier
from ctm.models.segmenter import load_segmenter
from ctm.params import Params


def test_the_promised_figures_are_there_and_within_their_ranges(pipeline):
    metrics = pipeline.metrics("evaluate")
    figures = [
        metrics["classifier"]["val"]["map"],
        metrics["classifier"]["val"]["accuracy"],
        metrics["heads"]["sparsity"],
        *(metrics["pseudomasks"]["train"][name] for name in ("miou", "pixel_accuracy", "coverage")),
        *(metrics["segmenter"]["val"][name] for name in ("miou", "pixel_accuracy", "coverage")),
        *(metrics["pseudomasks"]["train"]["compare"][name]["miou"] for name in ("random", "spectral", "attention")),
    ]
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in figures)
    classes = set(ShardFolder.open(pipeline.path("preprocess", "shards")).classes.names)
    for scores in (metrics["classifier"]["val"], metrics["pseudomasks"]["train"], metrics["segmenter"]["val"]):
        assert set(scores["classes"]) == classes


def test_the_written_pseudomasks_are_what_is_scored(pipeline, tiny_shards):
    masks = ShardFolder.open(pipeline.path("extract_pseudomasks", "pseudomasks")).split("train")
    score, truth = MaskScore(tiny_shards.classes), tiny_shards.split("train")
    for index, key in enumerate(masks.keys):
        score.update(masks.mask(index, "png"), truth.mask(truth.index_of(key), TRUTH))
    found = pipeline.metrics("evaluate")["pseudomasks"]["train"]
    assert {name: found[name] for name in score.compute()} == score.compute()
    assert found["empty"] == 0


def test_the_sparsity_is_the_fraction_of_heads_removed(pipeline):
    pruned, _, _ = load_classifier(pipeline.path("prune_heads", "pruned"))
    kept = sum(map(len, pruned.kept_heads))
    assert pipeline.metrics("evaluate")["heads"] == {"sparsity": 1 - kept / 6, "kept": kept, "total": 6}


def test_the_report_shows_the_figures_of_the_metrics(pipeline):
    html, metrics = pipeline.path("evaluate", "report").read_text(encoding="utf-8"), pipeline.metrics("evaluate")
    for value in (metrics["segmenter"]["val"]["miou"], metrics["pseudomasks"]["train"]["miou"]):
        assert f"{value:.3f}" in html
    for word in ("random", "spectral", "attention", "Urban/Built-up", "pruning_weight"):
        assert word in html


def test_the_confusions_are_those_that_the_segmenters_scores_come_from(pipeline, tiny_shards):
    found = json.loads(pipeline.path("evaluate", "confusion").read_text(encoding="utf-8"))
    assert found["classes"] == list(tiny_shards.classes.names)
    rows, scores = np.array(found["rows"]), pipeline.metrics("evaluate")["segmenter"]["val"]
    val = tiny_shards.split("val")
    truth = np.concatenate([val.mask(index, TRUTH).ravel() for index in range(len(val))])
    assert rows.sum(axis=1).tolist() == np.bincount(truth[truth != IGNORE], minlength=len(rows)).tolist()
    assert rows.trace() / rows.sum() == scores["pixel_accuracy"]
    for k, name in enumerate(found["classes"]):
        union = rows[k].sum() + rows[:, k].sum() - rows[k, k]
        assert scores["classes"][name] == (rows[k, k] / union if rows[k].any() else None)


def test_a_second_run_writes_the_same_bytes(pipeline, tmp_path):
    pipeline.run("evaluate", tmp_path)
    for port, path in (("report", "report/index.html"), ("confusion", "report/confusion.json")):
        assert (tmp_path / path).read_bytes() == pipeline.path("evaluate", port).read_bytes()
    assert json.loads((tmp_path / "metrics/evaluate.json").read_text()) == pipeline.metrics("evaluate")


def test_without_truth_the_label_scores_and_the_report_remain(pipeline, tiny_shards, rewrite, tmp_path):
    blind = rewrite(tiny_shards, {TRUTH: None})
    metrics = pipeline.run("evaluate", tmp_path, shards=blind.path)
    assert metrics["classifier"] == pipeline.metrics("evaluate")["classifier"]
    assert metrics["segmenter"]["val"]["miou"] is None
    unknown = dict.fromkeys(("miou", "pixel_accuracy", "coverage"))
    assert metrics["pseudomasks"]["train"]["compare"]["random"] == unknown
    html = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert "no masks to score against" in html
    assert "None" not in html
    assert "takes for what" not in html
    confusion = json.loads((tmp_path / "report/confusion.json").read_text(encoding="utf-8"))
    assert confusion == {"classes": list(tiny_shards.classes.names), "rows": [[0] * 8] * 8}


@pytest.fixture
def evaluated(changed: Callable[..., Params], pipeline: Any, tmp_path: Path) -> Callable[..., Any]:
    """The metrics of a run whose pseudo-masks are extracted with other settings; the report lies in ``tmp_path``."""

    def metrics(**settings: Any) -> Any:
        params = changed(extract_pseudomasks=settings)
        pipeline.run("extract_pseudomasks", tmp_path, params=params)
        return pipeline.run("evaluate", tmp_path, params=params, pseudomasks=tmp_path / "artifacts/pseudomasks")

    return metrics


def test_masks_of_val_alone_are_scored_and_nothing_is_compared(evaluated, tmp_path):
    metrics = evaluated(splits=("val",))
    assert list(metrics["pseudomasks"]) == ["val"]
    assert np.isfinite(metrics["pseudomasks"]["val"]["miou"])
    assert (tmp_path / "report/index.html").is_file()


@pytest.mark.parametrize("stage", ["train_classifier", "prune_heads", "extract_pseudomasks", "train_segmenter"])
def test_the_manifests_link_outputs_to_the_inputs_of_the_next_stage(pipeline, stage):
    evaluated = pipeline.manifest("evaluate")["inputs"]
    for port, output in pipeline.manifest(stage)["outputs"].items():
        assert evaluated[port]["sha256"] == output["sha256"]


def test_the_choice_of_auto_is_told_and_shown(evaluated, tmp_path):
    metrics = evaluated(strategy="auto", auto=("relevance", "attention"), auto_images=4)
    assert metrics["chosen"]["recipe"] in ("relevance", "attention")
    assert set(metrics["chosen"]["scores"]) == {"relevance", "attention"}
    html = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert f"The strategy auto chose {metrics['chosen']['recipe']}" in html
    assert "Label-free score" in html


def test_masks_from_the_candidates_tokens_are_scored_beside_the_map_of_the_whole_classifier(evaluated, pipeline):
    metrics = evaluated(tokens="candidates", tokens_tolerance=1.0)
    assert metrics["classifier"]["val"] == pipeline.metrics("evaluate")["classifier"]["val"]
    assert metrics["pseudomasks"]["train"]["miou"] > 0
    compared = (found["pseudomasks"]["train"]["compare"] for found in (metrics, pipeline.metrics("evaluate")))
    assert next(compared) == next(compared)  # recipes are compared by all tokens, as always


@pytest.fixture
def upper_bound(pipeline: Any, tmp_path: Path) -> Path:
    """The segmenter, as if it had learned the truth."""
    folder = tmp_path / "segmenter"
    shutil.copytree(pipeline.path("train_segmenter", "segmenter"), folder)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**about, "supervision": "truth"}))
    return folder


def test_the_segmenter_is_scored_on_the_tune_list_unless_it_has_learned_from_its_truth(
    upper_bound, pipeline, tiny_shards, rewrite, tmp_path
):
    listed = rewrite(tiny_shards, {})
    split = listed.split("train")
    write_index(listed.path, listed.index.model_copy(update={"tune": (split.keys[3], split.keys[9])}))
    metrics = pipeline.run("evaluate", tmp_path, shards=listed.path)
    network, classes, inputs = load_segmenter(pipeline.path("train_segmenter", "segmenter"))
    score = MaskScore(classes)
    for index, mask in segment(network, split, inputs, device=torch.device("cpu"), batch_size=8, workers=0):
        if index in (3, 9):
            score.update(mask, split.mask(index, TRUTH))
    assert metrics["segmenter"]["tune"] == score.compute()
    assert "tune" not in pipeline.run("evaluate", tmp_path, shards=listed.path, segmenter=upper_bound)["segmenter"]


def test_an_upper_bound_is_marked_in_metrics_and_report(upper_bound, pipeline, tmp_path):
    assert pipeline.metrics("evaluate")["segmenter"]["supervision"] == "pseudomasks"
    metrics = pipeline.run("evaluate", tmp_path, segmenter=upper_bound)
    assert metrics["segmenter"]["supervision"] == "truth"
    html = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert "has seen true masks" in html
    assert "uses nothing of the true masks" not in html
