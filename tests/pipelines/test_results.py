"""Results as files: what they say of where they come from, the table, and how to read it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ctm.evaluation.comparison import column, columns_of
from pipelines.experiments import Experiment
from pipelines.results import origin_of, write_results
from pipelines.results_page import Origin
from pipelines.table8 import LAMBDA

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
SUPERVISION = "train_segmenter.supervision"


def experiment(weight: float, seed: int, *, miou: float = 0.5, state: str = "success", **params: Any) -> Experiment:
    """A run whose sparsity is ten times its lambda."""
    metrics = {
        "heads": {"sparsity": 10 * weight, "total": 16},
        "classifier": {"val": {"map": 0.9}},
        "pseudomasks": {"train": {"miou": miou, "compare": {"attention": {"miou": miou / 2}}}},
    }
    known = {"seed": seed, "dataset.root": "/data/of/somebody/demo", LAMBDA: weight, **params}
    known |= {"extract_pseudomasks.strategy": "relevance"}
    ended = START + timedelta(minutes=seed + 1)
    return Experiment(f"sweep-{weight}-{seed}", state, known, metrics, None, ended=ended)


def origin(experiments: list[Experiment], *command: str) -> Origin:
    return origin_of("sweep-x", experiments, command=["/somewhere/bin/ctm-pipeline", *command], started=START)


def page(folder: Path, experiments: list[Experiment], **given: Any) -> str:
    """The Markdown of a sweep."""
    columns = given.pop("columns", columns_of([]))
    files = write_results("t", experiments, columns=columns, origin=origin(experiments, "sweep"), folder=folder)
    assert files[-1] == folder / "t-demo.md"
    return files[-1].read_text(encoding="utf-8")


@pytest.fixture
def pruned() -> list[Experiment]:
    """Two values of lambda, three seeds each."""
    return [experiment(w, s, miou=0.5 + s / 10 + w) for w in (0.0, 0.05) for s in (0, 1, 2)]


def test_the_table_has_a_line_a_row_with_mean_deviation_and_number(tmp_path: Path, pruned: list[Experiment]):
    text = page(tmp_path, pruned)
    assert "|  | n | Heads: sparsity | Classifier: val accuracy | Classifier: val mAP |" in text
    assert f"\n| {LAMBDA}=0.0 | 3 | 0.000 ± 0.000 | – | 0.900 ± 0.000 | – | 0.600 ± 0.100 | – |\n" in text
    assert "Mean ± standard deviation of a sample over n seeds." in text


def test_one_seed_has_no_deviation(tmp_path: Path):
    text = page(tmp_path, [experiment(0.0, 0), experiment(0.01, 0)])
    assert f"| {LAMBDA}=0.01 | 1 | 0.100 | – | 0.900 | – | 0.500 | – |" in text
    assert "±" not in text
    assert "; seed 0; " in text


def test_a_run_without_the_figure_is_not_counted_in_its_mean(tmp_path: Path):
    lacking = replace(experiment(0.0, 2), metrics={"heads": {"sparsity": 0.0, "total": 16}})
    text = page(tmp_path, [experiment(0.0, 0), experiment(0.0, 1), lacking, experiment(0.1, 0)])
    assert "0.900 ± 0.000 (n = 2)" in text


def test_lambda_is_set_against_the_number_of_heads(tmp_path: Path, pruned: list[Experiment]):
    text = page(tmp_path, pruned)
    assert f"Lambda is {LAMBDA}, not rescaled." in text
    assert "This model has 16 heads, the paper's ViT-B 192" in text
    assert "is 0, 0.8 here and 0, 9.6 there" in text
    other = [experiment(0.01, 0, lr=1), experiment(0.01, 0, lr=2)]
    assert "rescaled" not in page(tmp_path, other)


def test_what_the_masks_are_of_and_what_rows_leave_out_is_said(tmp_path: Path):
    full = {"mask": 0.5, "token": True}
    runs = [experiment(0.01, 0, **(full | changed)) for changed in ({}, {"mask": 0}, {"token": False})]
    text = page(tmp_path, runs, columns=[column("pseudomasks.train.compare.attention.miou")])
    assert "Pseudo-masks (strategy relevance): against the true masks" in text
    assert "Where a row does not say otherwise: mask=0.5, token=true." in text
    assert "| unchanged | 1 | 0.250 |" in text
    assert "Segmenter:" not in text


def test_an_upper_bound_is_called_one(tmp_path: Path, pruned: list[Experiment]):
    assert "upper bound" not in page(tmp_path, pruned)
    both = [experiment(0.01, 0, **{SUPERVISION: kind}) for kind in ("pseudomasks", "truth")]
    assert f"With {SUPERVISION} = truth the segmenter is an upper bound" in page(tmp_path, both)


def test_a_sweep_of_pruning_has_its_curve_beside_it(tmp_path: Path, pruned: list[Experiment]):
    assert "![Classifier and pseudo-masks over sparsity](t-demo.svg)" in page(tmp_path, pruned)
    svg = (tmp_path / "t-demo.svg").read_text(encoding="utf-8")
    assert 'xmlns="http://www.w3.org/2000/svg"' in svg
    assert "fraction of heads removed" in svg
    text = page(tmp_path / "other", [experiment(0.0, 0, lr=1), experiment(0.1, 0, lr=2)])
    assert ".svg" not in text
    assert not (tmp_path / "other" / "t-demo.svg").exists()


def test_every_run_is_kept_with_its_figures_and_parameters(tmp_path: Path, pruned: list[Experiment]):
    log = tmp_path / "log"
    log.write_text("error: early\nerror: '/home/me/a' (/b/c): every gate has closed\nERROR: failed to reproduce\n")
    failed = replace(experiment(0.05, 3, state="failed"), metrics={}, log=log)
    text = page(tmp_path, [*pruned, failed])
    assert "only 6 of 7 runs have succeeded" in text
    assert f"- {LAMBDA}=0.05, seed 3: failed (error: '…/a' (…/c): every gate has closed)" in text
    assert "in no figure" not in page(tmp_path / "all", pruned)
    record = json.loads((tmp_path / "t-demo.json").read_text(encoding="utf-8"))
    assert [(run["row"], run["seed"]) for run in record["runs"]][-2:] == [(f"{LAMBDA}=0.05", 2), (f"{LAMBDA}=0.05", 3)]
    assert record["runs"][1]["metrics"]["pseudomasks"]["train"]["miou"] == 0.6
    assert record["runs"][1]["params"] == {"seed": 1, LAMBDA: 0.0}
    figures = record["rows"][1]["figures"]["pseudomasks.train.miou"]
    assert figures == {"mean": pytest.approx(0.65), "sd": pytest.approx(0.1), "n": 3}
    assert record["params"]["extract_pseudomasks.strategy"] == "relevance"


def test_files_name_no_folder_of_this_machine(tmp_path: Path, pruned: list[Experiment]):
    found = origin(pruned, "sweep", "--set", "model.pretrained=/home/me/w.safetensors", "--copy", "/home/me/w", "a/b")
    assert found.command == "ctm-pipeline sweep --set 'model.pretrained=…/w.safetensors' --copy '…/w' a/b"
    for file in write_results("t", pruned, columns=columns_of([]), origin=found, folder=tmp_path):
        assert "/of/somebody" not in file.read_text(encoding="utf-8")
        assert "/home" not in file.read_text(encoding="utf-8")


def test_time_is_that_from_queueing_to_the_last_end(pruned: list[Experiment]):
    assert origin(pruned).minutes == 3.0
    assert origin([replace(run, ended=None) for run in pruned]).minutes is None
    assert "CPU core" in origin(pruned).machine
