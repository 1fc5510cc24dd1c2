"""The compiled pipelines in containers: the same numbers and bytes as `dvc repro`, whole, in parts, and as a sweep."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from ctm.execute import manifest_path
from ctm.fingerprint import package_digest
from ctm.params import load_params
from ctm.runtime.digest import digest_artifact
from ctm.stages import STAGES
from pipelines.local import run_pipeline_here
from tests.e2e.conftest import TINY, Checkout, demo_tree

pytestmark = pytest.mark.slow

OUTPUTS = {(name, port): output.path for name, stage in STAGES.items() for port, output in stage.outputs.items()}


@pytest.fixture(scope="module")
def tree(engine, tmp_path_factory) -> Checkout:
    """A checkout with tiny demo data and parameters, in which `dvc repro` has run."""
    settings = TINY | {"evaluate.compare": "[random, attention]"}
    tree = demo_tree(tmp_path_factory.mktemp("containers") / "tree", settings)
    assert tree.repro() == list(STAGES)
    return tree


@pytest.fixture(scope="module")
def whole(tree) -> Path:
    """What `ctm-pipeline run-local` has left."""
    said = tree.run("ctm-pipeline", "run-local", "--output", "containers", "--checkpoints", "checkpoints")
    assert "report: containers/report/index.html" in said
    assert "evaluate | evaluate: wrote" in said
    return tree.root / "containers"


def run_here(tree: Checkout, monkeypatch, kind, output: Path, **arguments) -> None:
    monkeypatch.chdir(tree.root)
    params = load_params(Path("params.yaml"), [])
    run_pipeline_here(kind, params, output=output, checkpoints=output.with_name("checkpoints"), **arguments)


def test_containers_and_dvc_give_the_same_metrics_and_bytes(tree, whole):
    for stage in STAGES.values():
        assert (whole / stage.metrics).read_bytes() == (tree.root / stage.metrics).read_bytes()
    for path in OUTPUTS.values():
        assert digest_artifact(whole / path) == digest_artifact(tree.root / path), path


def test_manifests_tell_where_and_from_what_the_stages_ran(tree, engine, whole):
    revision = engine.image("train").attrs["Config"]["Labels"]["org.opencontainers.image.revision"]
    for name, stage in STAGES.items():
        manifest = json.loads((whole / manifest_path(stage.metrics)).read_text(encoding="utf-8"))
        by_dvc = tree.json(str(manifest_path(stage.metrics)))
        assert manifest["fingerprint"] == by_dvc["fingerprint"]
        assert manifest["config"] == by_dvc["config"]
        assert manifest["git"]["revision"] == revision.removesuffix("-dirty")
        assert manifest["labels"]["image"] == engine.image("data" if name == "preprocess" else "train").id
        assert manifest["labels"]["code"] == package_digest()


def test_stages_ran_as_a_user_without_rights_and_left_nothing_behind(tree, whole):
    user = os.getuid() or 1000
    written = [whole / path for path in (*OUTPUTS.values(), *(stage.metrics for stage in STAGES.values()))]
    assert {path.stat().st_uid for path in written} == {user}
    assert sorted(path.name for path in whole.iterdir()) == ["artifacts", "local_run.txt", "metrics", "report"]
    assert not [path for path in (tree.root / "checkpoints").rglob("*") if path.is_file()]


def test_a_folder_with_other_things_in_it_is_not_replaced(tree, whole):
    done = tree.try_run("ctm-pipeline", "run-local", "--output", "data")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --output data is a folder with other things in it")
    assert (tree.root / "data" / "demo").is_dir()


def test_three_parts_give_the_same_pseudomasks_as_one(tree, whole, monkeypatch, tmp_path):
    output = tmp_path / "fanout"
    run_here(tree, monkeypatch, "ctm_fanout", output, parts=3)
    for path in OUTPUTS.values():
        assert digest_artifact(output / path) == digest_artifact(whole / path), path
    files = sorted(path.relative_to(whole) for path in (whole / "artifacts" / "pseudomasks").iterdir())
    assert len(files) == 5
    for file in files:
        assert (output / file).read_bytes() == (whole / file).read_bytes()
    merged, one = output / "metrics" / "merge_pseudomasks.json", whole / "metrics" / "extract_pseudomasks.json"
    assert merged.read_bytes() == one.read_bytes()
    assert len(list((output / "iterations").iterdir())) == 3


def test_a_sweep_ends_in_one_report(tree, whole, monkeypatch, tmp_path):
    output = tmp_path / "sweep"
    weights = ("0.5", "0.01")
    overrides = [f"train_classifier.pruning_weight={weight}" for weight in weights]
    run_here(tree, monkeypatch, "ctm_sweep", output, overrides=overrides)
    page = (output / "report" / "compare-runs.html").read_text(encoding="utf-8")
    table = json.loads((output / "metrics" / "compare-runs.json").read_text(encoding="utf-8"))
    assert len(table) == 2
    for number, weight in enumerate(weights):
        assert re.search(rf"pruning_weight\W+{weight}", page)
        metrics = (output / "iterations" / str(number) / "metrics" / "train_classifier.json").read_bytes()
        same = weight == "0.01"  # the preset's own
        assert (metrics == (whole / "metrics" / "train_classifier.json").read_bytes()) is same
