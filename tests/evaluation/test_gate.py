"""The gate: what lets a run through, what does not, and the table that a pull request shows."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctm.errors import ArtifactError, ParamsError
from ctm.evaluation.config import QualityGateConfig
from ctm.evaluation.gate import check_gate, gate_table, metrics_at
from ctm.params import load_preset, stage_config, to_yaml
from ctm.stages import STAGES
from ctm.sync import dvc_yaml
from tests.evaluation.conftest import ctm

RUN: dict[str, Any] = {
    "classifier": {"val": {"map": 0.9, "accuracy": 0.95, "chance_map": 0.3, "classes": {"cow": 0.8}}},
    "heads": {"sparsity": 0.25, "kept": 6, "total": 8},
    "pseudomasks": {"train": {"miou": 0.7, "pixel_accuracy": 0.8, "coverage": 1.0, "classes": {"cow": 0.7}}},
    "segmenter": {"val": {"miou": 0.65, "pixel_accuracy": 0.85, "coverage": 1.0, "classes": {"cow": None}}},
}


def run(**changed: float | None) -> dict[str, Any]:
    """Metrics of a run with some of the segmenter's changed."""
    metrics = copy.deepcopy(RUN)
    metrics["segmenter"]["val"] |= changed
    return metrics


NO_VALUE = "segmenter.val.miou has no value, for want of truth to score by"
ALONE = "only the minimum counts."


@pytest.mark.parametrize(
    ("miou", "baseline", "demand", "passed", "reasons"),
    [
        (0.65, "none", {"minimum": 0.6}, True, ["segmenter.val.miou is 0.65, at least the minimum of 0.6."]),
        (0.65, "none", {"minimum": 0.65}, True, ["segmenter.val.miou is 0.65, at least the minimum of 0.65."]),
        (0.65, "none", {"minimum": 0.6501}, False, ["segmenter.val.miou is 0.65, less than the minimum of 0.6501."]),
        (0.95, 0.9, {"max_drop": 0.02}, True, ["segmenter.val.miou has not dropped; 0.02 is allowed."]),
        (0.9, 0.9, {"max_drop": 0.02}, True, ["segmenter.val.miou has not dropped; 0.02 is allowed."]),
        # 0.9 - 0.88 is 0.020000000000000018
        (0.88, 0.9, {"max_drop": 0.02}, True, ["segmenter.val.miou has dropped by 0.02; 0.02 is allowed."]),
        (0.8799, 0.9, {"max_drop": 0.02}, False, ["segmenter.val.miou has dropped by 0.0201; 0.02 is allowed."]),
        (0.9, 0.9, {"max_drop": 0}, True, ["segmenter.val.miou has not dropped; 0 is allowed."]),
        (0.8999, 0.9, {"max_drop": 0}, False, ["segmenter.val.miou has dropped by 0.0001; 0 is allowed."]),
        (None, "none", {"minimum": 0.0}, False, [f"{NO_VALUE}; the minimum is 0."]),
        (None, 0.3, {"max_drop": 1}, False, [f"{NO_VALUE}; the baseline's is 0.3."]),
        (0.65, None, {"max_drop": 0.01}, True, [f"The baseline has no segmenter.val.miou: {ALONE}"]),
        (
            0.5,
            0.9,
            {"minimum": 0.4, "max_drop": 0.1},
            False,
            [
                "segmenter.val.miou is 0.5, at least the minimum of 0.4.",
                "segmenter.val.miou has dropped by 0.4; 0.1 is allowed.",
            ],
        ),
        (
            0.65,
            "none",
            {"minimum": 0.6, "max_drop": 0.01},
            True,
            ["segmenter.val.miou is 0.65, at least the minimum of 0.6.", f"There is no baseline: {ALONE}"],
        ),
        (0.65, 0.65, {}, True, ["Nothing is demanded: evaluate.gate.minimum and evaluate.gate.max_drop are null."]),
    ],
)
def test_a_run_passes_where_every_demand_is_met_and_each_is_told(miou, baseline, demand, passed, reasons):
    before = None if baseline == "none" else run(miou=baseline)
    gate = check_gate(run(miou=miou), before, QualityGateConfig(**demand))
    assert (gate.passed, list(gate.reasons)) == (passed, reasons)


def test_another_figure_can_decide_also_that_of_a_class():
    gate = check_gate(RUN, None, QualityGateConfig(metric="pseudomasks.train.classes.cow", minimum=0.7))
    assert gate.passed
    assert gate.rows[0].name == "pseudomasks.train.classes.cow"


@pytest.mark.parametrize("demand", [{"minimum": 0.1}, {"max_drop": 0.1}, {}])
def test_a_figure_that_does_not_exist_never_passes_and_those_that_do_are_listed(demand):
    gate = check_gate(RUN, None, QualityGateConfig(metric="segmenter.val.mIoU", **demand))
    assert not gate.passed
    assert "no segmenter.val.mIoU" in gate.reasons[0]
    assert "segmenter.val.miou, segmenter.val.pixel_accuracy" in gate.reasons[0]
    assert "cow" not in gate.reasons[0]


def test_the_table_shows_both_runs_and_the_differences():
    baseline = run(miou=0.7, pixel_accuracy=0.85)
    baseline["heads"]["sparsity"] = None
    text = gate_table(check_gate(RUN, baseline, QualityGateConfig(minimum=0.9)), against="origin/main")
    lines = text.splitlines()
    assert lines[0] == "**The gate has failed.**"
    assert lines[2] == "* segmenter.val.miou is 0.65, less than the minimum of 0.9."
    assert lines[4:6] == ["| figure | origin/main | this run | difference |", "|---|---:|---:|---:|"]
    assert "| **segmenter.val.miou** | 0.700 | 0.650 | -0.050 |" in lines
    assert "| segmenter.val.pixel_accuracy | 0.850 | 0.850 | +0.000 |" in lines
    assert "| heads.sparsity | – | 0.250 | – |" in lines
    assert "| classifier.val.map | 0.900 | 0.900 | +0.000 |" in lines
    assert len(lines) == 6 + 8


def test_a_tiny_loss_has_no_minus_before_a_zero():
    table = gate_table(check_gate(run(miou=0.64999), RUN, QualityGateConfig()))
    assert "| 0.650 | 0.650 | +0.000 |" in table


def test_a_name_cannot_break_the_table():
    assert r"a\|b" in gate_table(check_gate(RUN, None, QualityGateConfig()), against="a|b")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository: revision ``before`` without metrics, ``main`` with them, and a worse run in the working tree."""
    folder = tmp_path / "tree"
    (folder / "metrics").mkdir(parents=True)
    (folder / "params.yaml").write_text(to_yaml(load_preset("demo")), encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "start")
    git(folder, "tag", "before")
    (folder / "metrics/evaluate.json").write_text(json.dumps(run(miou=0.7)))
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "run")
    (folder / "metrics/evaluate.json").write_text(json.dumps(RUN))
    return folder


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=gate", "-c", "user.email=gate@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_baseline_is_read_from_a_revision(checkout):
    assert metrics_at("main", checkout / "metrics/evaluate.json") == run(miou=0.7)
    assert metrics_at("HEAD~0", checkout / "metrics/evaluate.json") == run(miou=0.7)


def test_a_revision_without_metrics_is_no_baseline(checkout):
    assert metrics_at("before", checkout / "metrics/evaluate.json") is None


@pytest.mark.parametrize("revision", ["origin/main", "--all", "main --", ""])
def test_a_revision_that_git_does_not_know_is_refused(checkout, revision):
    with pytest.raises(ParamsError, match=r"--against .*git cannot read that revision.*git fetch"):
        metrics_at(revision, checkout / "metrics/evaluate.json")


def test_a_folder_without_history_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"--against main: git cannot read.*not a git repository"):
        metrics_at("main", tmp_path / "evaluate.json")


def test_metrics_in_a_revision_that_are_none_are_refused(checkout):
    (checkout / "metrics/evaluate.json").write_text("<<<<<<<")
    git(checkout, "commit", "--quiet", "-a", "-m", "conflict")
    with pytest.raises(ArtifactError, match=r"main:.*evaluate\.json: no valid JSON"):
        metrics_at("main", checkout / "metrics/evaluate.json")


def test_the_command_passes_with_exit_code_0_and_fails_with_1(checkout):
    passed = ctm(checkout, "gate", "--against", "main", "--set", "evaluate.gate.max_drop=0.1", "--table", "gate.md")
    assert (passed.returncode, passed.stderr) == (0, "")
    assert "| **segmenter.val.miou** | 0.700 | 0.650 | -0.050 |" in passed.stdout
    assert "| figure | main |" in passed.stdout
    assert (checkout / "gate.md").read_text(encoding="utf-8") == passed.stdout
    failed = ctm(checkout, "gate", "--against", "main", "--set", "evaluate.gate.max_drop=0.01", "--table", "gate.md")
    assert (failed.returncode, failed.stderr) == (1, "")
    assert "**The gate has failed.**" in failed.stdout
    assert (checkout / "gate.md").read_text(encoding="utf-8") == failed.stdout


def test_the_command_takes_a_file_as_baseline_and_thresholds_from_params(checkout):
    text = (checkout / "params.yaml").read_text(encoding="utf-8")
    assert text.count("max_drop: null") == 1
    (checkout / "params.yaml").write_text(text.replace("max_drop: null", "max_drop: 0.0"), encoding="utf-8")
    (checkout / "other.json").write_text(json.dumps(run(miou=0.66)))
    done = ctm(checkout, "gate", "--baseline", "other.json")
    assert done.returncode == 1
    assert "| figure | other.json |" in done.stdout
    assert "has dropped by 0.01; 0 is allowed" in done.stdout


def test_the_command_works_without_a_baseline_and_refuses_two(checkout):
    assert ctm(checkout, "gate", "--set", "evaluate.gate.minimum=0.6").returncode == 0
    both = ctm(checkout, "gate", "--against", "main", "--baseline", "other.json")
    assert both.returncode == 1
    assert "--against" in both.stderr
    assert "--baseline" in both.stderr
    assert "Traceback" not in both.stderr


def test_no_stage_reads_the_gate():
    strict = load_preset("demo", ["evaluate.gate.minimum=0.9"])
    for stage in STAGES.values():
        asked, plain = (stage_config(params, stage.config) for params in (strict, load_preset("demo")))
        assert asked.model_dump() == plain.model_dump()
    params = yaml.safe_load(dvc_yaml(STAGES.values()))["stages"]["evaluate"]["params"]
    assert {"evaluate.compare", "evaluate.panels", "evaluate.batch_size"} <= set(params)
    assert not {"evaluate", "evaluate.gate"} & set(params)


@pytest.mark.parametrize(
    "override", ["evaluate.gate.minimum=1.5", "evaluate.gate.max_drop=-0.1", "evaluate.gate.metric=''"]
)
def test_thresholds_out_of_range_are_refused(override):
    with pytest.raises(ParamsError, match=override.partition("=")[0].replace(".", r"\.")):
        load_preset("demo", [override])
