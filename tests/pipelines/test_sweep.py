"""A sweep through DVC's own queue in a real working tree: what runs, on which code, and what is compared."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctm.data.datasets.demo import write_demo
from ctm.errors import ParamsError
from pipelines import sweep
from pipelines.errors import PipelineError
from pipelines.experiments import Experiment, rows
from pipelines.grids import check_grids
from tests.e2e.conftest import PROJECT, Checkout, make_checkout

WEIGHT = "train_classifier.pruning_weight"
IGNORED = shutil.ignore_patterns("__pycache__")


SCORE = """\
import json, pathlib, sys, yaml, ctm
if not pathlib.Path(ctm.__file__).is_relative_to(pathlib.Path.cwd()):
    sys.exit(f"error: {ctm.__file__} is not this copy's own")
params = yaml.safe_load(open("params.yaml"))
weight = params["train_classifier"]["pruning_weight"]
if weight > 0.5:
    sys.exit("error: that is too much")
figures = {"heads": {"sparsity": weight, "total": 4}, "segmenter": {"val": {"miou": 0.5 + params["seed"] / 10}}}
pathlib.Path("metrics/evaluate.json").write_text(json.dumps(figures))
"""
"""Stands for all stages after preprocess, which e2e tests run; it wants the code of the copy that it runs in."""


def make_tree(root: Path) -> Checkout:
    """The project with preprocess and a stage that takes no time, on data that neither git nor DVC tracks."""
    made = make_checkout(root)
    for package in ("components", "pipelines"):
        shutil.copytree(PROJECT / package, made.root / package, ignore=IGNORED)
    stages = yaml.safe_load((made.root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    score = {
        "cmd": "python score.py",
        "deps": ["artifacts/shards", "score.py"],
        "params": ["seed", "train_classifier"],
        "metrics": [{"metrics/evaluate.json": {"cache": False}}],
    }
    document = {"stages": {"preprocess": stages["preprocess"], "evaluate": score}}
    (made.root / "dvc.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    (made.root / "score.py").write_text(SCORE, encoding="utf-8")
    for name, value in (("user.name", "sweep"), ("user.email", "sweep@localhost")):
        made.run("git", "config", name, value)
    made.run("git", "add", ".")
    made.run("git", "commit", "--quiet", "-m", "two stages")
    write_demo(made.root / "data" / "demo", train=4, val=4, size=16)
    return made


RUNS = (f"{WEIGHT}=0.5", "--run", f"{WEIGHT}=0.75", "--seeds", "0,2", "--jobs", "2", "--results", "tiny")
"""A value and a further run that must fail, each with two seeds."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, str, subprocess.CompletedProcess[str]]:
    """A tree after a sweep, half of which must fail; the sweep's name, and what it printed."""
    tree = make_tree(tmp_path_factory.mktemp("sweep") / "tree")
    process = tree.start("ctm-pipeline", "sweep", *RUNS)
    assert process.stdout is not None
    queued = process.stdout.readline()
    (tree.root / "score.py").write_text("raise SystemExit('error: the tree was edited')\n", encoding="utf-8")
    out, err = process.communicate(timeout=400)
    name = re.match(r"queued as (sweep-\d{8}-\d{6})", queued)
    assert name, queued + out + err
    return tree, name[1], subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.slow
def test_a_sweep_runs_its_own_copy_of_code_and_data_and_compares_the_runs(finished):
    tree, _, done = finished
    ((name, row),) = tree.json("metrics/sweep.json").items()
    assert (name, row["heads.sparsity"], row["runs"]) == (f"{WEIGHT}=0.5", 0.5, 2), done.stdout + done.stderr
    assert row["segmenter.val.miou"] == pytest.approx(0.6)
    assert row["segmenter.val.miou.sd"] == pytest.approx(0.02**0.5)
    assert f"{WEIGHT}=0.5" in (tree.root / "report/sweep.html").read_text(encoding="utf-8")
    assert "wrote report/sweep.html and metrics/sweep.json: 2 of 4 experiments" in done.stdout


@pytest.mark.slow
def test_stages_that_a_sweep_does_not_change_run_once_for_each_job(finished):
    _, _, done = finished
    cached = (done.stdout + done.stderr).count("Stage 'preprocess' is cached")
    assert cached >= 2, done.stdout + done.stderr  # two jobs start at the same time, before the cache has anything


@pytest.mark.slow
def test_a_sweep_leaves_the_working_tree_alone(finished):
    tree, _, _ = finished
    assert not (tree.root / "artifacts").exists()
    assert "pruning_weight: 0.01" in (tree.root / "params.yaml").read_text(encoding="utf-8")
    assert tree.run("git", "status", "--porcelain", "--untracked-files=no") == " M score.py\n"


@pytest.mark.slow
def test_an_experiment_that_fails_fails_the_sweep_with_the_stages_own_words(finished):
    _, name, done = finished
    assert done.returncode == 1
    first, second = (
        f"{name}-2-{n} has failed (error: that is too much); see `dvc queue logs {name}-2-{n}`" for n in (1, 2)
    )
    assert done.stderr.splitlines()[-2:] == [f"error: {first}", second]


@pytest.mark.slow
def test_results_are_written_with_command_revision_and_every_run(finished):
    tree, name, _ = finished
    page = (tree.root / "docs/results/tiny-demo.md").read_text(encoding="utf-8")
    revision = tree.run("git", "rev-parse", "HEAD")[:7]
    assert f"    ctm-pipeline sweep {' '.join(RUNS)}\n" in page
    assert f"Revision {revision}; only 2 of 4 runs have succeeded; seeds 0, 2; " in page
    assert f"| {WEIGHT}=0.5 | 2 | 0.500 ± 0.000 | – | – | – | – | 0.600 ± 0.141 |" in page
    assert "This model has 4 heads" in page
    record = tree.json("docs/results/tiny-demo.json")
    states = [(run["name"].removeprefix(f"{name}-"), run["seed"], run["state"]) for run in record["runs"]]
    assert states == [("1-1", 0, "success"), ("1-2", 2, "success"), ("2-1", 0, "failed"), ("2-2", 2, "failed")]
    assert record["runs"][1]["metrics"]["segmenter"]["val"]["miou"] == pytest.approx(0.7)
    assert 0 < record["minutes"] < 10
    assert record["params"]["train_classifier.lr"] == 0.001


@pytest.mark.slow
def test_an_earlier_sweep_can_be_collected_again(finished):
    tree, name, _ = finished
    wanted = ["--column", "heads.total", "--column", "heads.tall"]
    again = tree.try_run("ctm-pipeline", "sweep", "--collect", name, *wanted)
    assert again.returncode == 1
    assert f"{name}-2-1 has failed" in again.stderr
    assert "no run has the figure heads.tall" in again.stderr
    assert [row["heads.total"] for row in tree.json("metrics/sweep.json").values()] == [4.0]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A tree in which nothing has run; no test queues anything in it."""
    tree = make_tree(tmp_path_factory.mktemp("unused") / "tree")
    yield tree
    assert "No experiment tasks in the queue" in tree.run("dvc", "queue", "status")


@pytest.fixture
def params(tree: Checkout, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parameter file, in the tree as working folder."""
    monkeypatch.chdir(tree.root)
    return Path("params.yaml")


NO_WORKER = """\
import os, sys
if "queue-worker" in sys.orig_argv:
    print("no worker today", flush=True)
    os._exit(3)
"""


@pytest.mark.slow
def test_a_queue_whose_worker_does_not_start_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree = make_tree(tmp_path / "tree")
    (tree.root / "sitecustomize.py").write_text(NO_WORKER, encoding="utf-8")
    monkeypatch.chdir(tree.root)
    monkeypatch.setattr(sweep, "START_SECONDS", 20)
    name = sweep.queue([[f"{WEIGHT}=0.5"]], params=Path("params.yaml"))
    with pytest.raises(PipelineError, match=f"DVC has started no experiment of {name} in 20 s: .* `dvc queue start`"):
        sweep.run_queued(name, jobs=1)
    assert (tree.root / sweep.WORKER_LOG).read_text(encoding="utf-8") == "no worker today\n"


@pytest.mark.parametrize(
    ("grids", "given", "error", "message"),
    [
        ([["train_classifier.pruning_wait=0,1"]], {}, ParamsError, r"train_classifier\.pruning_wait"),
        ([[f"{WEIGHT}=0,x"]], {}, ParamsError, WEIGHT),
        ([[f"{WEIGHT}=0,-1"]], {}, ParamsError, WEIGHT),
        ([[WEIGHT]], {}, PipelineError, r"expected section\.name=value,value"),
        ([[f"{WEIGHT}="]], {}, PipelineError, r"expected section\.name=value,value"),
        ([["=0,1"]], {}, PipelineError, r"expected section\.name=value,value"),
        ([[f"{WEIGHT}=0,1"]], {"seeds": "0,x"}, ParamsError, "seed"),
        ([["seed=0,1"]], {"seeds": "0,1"}, PipelineError, "^seed is given more than once"),
        ([[]], {"settings": ["train_classifier.pruning_wait=1"]}, ParamsError, "pruning_wait"),
        ([[f"{WEIGHT}=0,1"]], {"settings": ["dataset.root=data/mine"]}, PipelineError, "root data/mine is missing"),
        ([[f"{WEIGHT}=0,0.0"]], {"seeds": "0,1"}, PipelineError, "the same parameters"),
        ([[], [f"{WEIGHT}=0.01"]], {}, PipelineError, f"runs 'unchanged' and '{WEIGHT}=0.01' have the same parameters"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_queued(
    params: Path, grids: list[list[str]], given: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        sweep.queue(grids, params=params, **given)


def test_a_sweep_that_dvc_does_not_know_is_named(params: Path):
    with pytest.raises(PipelineError, match="no experiments of this commit whose names begin with sweep-1"):
        sweep.collect("sweep-1")


@pytest.mark.slow
def test_what_is_staged_and_changed_again_is_to_be_committed_first(tmp_path: Path):
    tree = make_tree(tmp_path / "tree")
    params = tree.root / "params.yaml"
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace("seed: 0", "seed: 1"), encoding="utf-8")
    tree.run("git", "add", "params.yaml")
    params.write_text(text, encoding="utf-8")
    process = tree.start("ctm-pipeline", "sweep", f"{WEIGHT}=0.5")
    assert process.communicate()[1].endswith("Commit what `git status` shows as staged, and run it again.\n")
    assert process.returncode == 1


def test_outside_of_a_repository_dvcs_own_error_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"DVC cannot list the experiments: .*not inside"):
        sweep.collect("sweep-1")


def test_values_that_only_fit_together_are_read_together(params: Path):
    """Format endotect needs no masks, but its folds are refused with any other format."""
    check_grids([["dataset.format=endotect", "dataset.folds=2,5"]], [], params)
    with pytest.raises(ParamsError, match="folds"):
        check_grids([["dataset.folds=2,5"]], [], params)


def test_runs_that_differ_in_lists_are_not_taken_for_equal(params: Path):
    check_grids([["evaluate.compare=[random],[attention]"], []], [], params)


def test_the_name_of_a_sweep_says_when_it_was_queued():
    assert sweep.started("sweep-20260131-235958").isoformat() == "2026-01-31T23:59:58+00:00"
    with pytest.raises(PipelineError, match="mine is no name of a sweep"):
        sweep.started("mine")


def experiment(name: str, state: str = "success", **params: Any) -> Experiment:
    return Experiment(name, state, params, {"heads": {"sparsity": 0.5}}, None)


def test_only_runs_that_succeeded_are_compared_and_the_others_are_told(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("error: first\nerror: no space\nERROR: failed to reproduce 'preprocess'\n")
    failed = Experiment("s-2", "failed", {"lr": 2}, {}, log)
    found = [experiment("s-1", lr=1), failed, experiment("s-3", "queued", lr=3)]
    assert [row.name for row in rows(found)] == ["lr=1"]
    assert sweep.failures(found) == [
        "s-2 has failed (error: no space); see `dvc queue logs s-2`",
        "s-3 is queued; see `dvc queue logs s-3`",
    ]


def test_the_figures_of_a_sweep_are_written_beside_its_page(tmp_path: Path):
    runs = [experiment("s-1", lr=1), experiment("s-2", lr=2)]
    sweep.write_comparison(runs, report=tmp_path / "r/s.html", metrics=tmp_path / "m/s.json", title="Sweep")
    assert json.loads((tmp_path / "m/s.json").read_text())["lr=2"]["heads.sparsity"] == 0.5
    assert "lr=2" in (tmp_path / "r/s.html").read_text(encoding="utf-8")
