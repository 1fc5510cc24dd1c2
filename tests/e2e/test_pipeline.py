"""The whole pipeline through `dvc repro` on tiny demo data: what it writes, and what it runs again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from ctm.data.datasets.demo import write_demo
from ctm.data.shards import ShardFolder
from ctm.stages import STAGES
from tests.e2e.conftest import demo_tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The one run that the tests of this file look at; none of them changes it."""
    tree = demo_tree(tmp_path_factory.mktemp("e2e") / "run")
    assert tree.repro() == list(STAGES)
    return tree


def test_the_tree_runs_its_own_copy_of_ctm(finished):
    where = finished.run("python", "-c", "import ctm; print(ctm.__file__)")
    assert Path(where.strip()) == finished.root / "ctm" / "__init__.py"


def test_every_declared_output_exists_and_parses(finished):
    document = yaml.safe_load((finished.root / "dvc.yaml").read_text(encoding="utf-8"))
    declared = {out for stage in document["stages"].values() for out in stage["outs"]}
    assert declared == {output.path for stage in STAGES.values() for output in stage.outputs.values()}
    assert all((finished.root / out).exists() for out in declared)
    for name in ("classifier", "pruned", "segmenter"):
        folder = finished.root / "artifacts" / name
        assert json.loads((folder / "model.json").read_text(encoding="utf-8"))
        with safe_open(folder / "model.safetensors", "numpy") as weights:
            assert all(np.isfinite(weights.get_tensor(key)).all() for key in weights.keys())  # noqa: SIM118
    shards, masks = (ShardFolder.open(finished.root / "artifacts" / name) for name in ("shards", "pseudomasks"))
    for split, samples in {"train": 24, "val": 8}.items():
        assert len(shards.split(split)) == samples
        assert masks.split(split).keys == shards.split(split).keys
    for name in STAGES:
        assert finished.json(f"metrics/{name}.json")


def test_histories_have_a_row_an_epoch_with_the_columns_that_dvc_plots(finished):
    plots = yaml.safe_load((finished.root / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    assert len(plots) == 2
    for plot in plots:
        for path, axes in plot.items():
            with (finished.root / path).open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            assert [row["epoch"] for row in rows] == ["1", "2"]
            assert {axes["x"], *axes["y"]} <= set(rows[0])


def test_manifests_tell_fingerprint_config_and_input_digests(finished):
    params = yaml.safe_load((finished.root / "params.yaml").read_text(encoding="utf-8"))
    del params["evaluate"]["gate"]  # no stage reads it
    manifests = {name: finished.json(f"metrics/{name}.manifest.json") for name in STAGES}
    outputs = [output for manifest in manifests.values() for output in manifest["outputs"].values()]
    written = {output["path"]: output["sha256"] for output in outputs}
    for name, manifest in manifests.items():
        assert len(bytes.fromhex(manifest["fingerprint"])) == 32
        assert manifest["config"] == {section: params[section] for section in STAGES[name].config.model_fields}
        assert set(manifest["inputs"]) == set(STAGES[name].inputs)
        assert manifest["git"]["revision"] == finished.run("git", "rev-parse", "HEAD").strip()
        for given in manifest["inputs"].values():
            assert len(bytes.fromhex(given["sha256"])) == 32
            assert given["sha256"] == written.get(given["path"], given["sha256"]), "not what the stage before wrote"
    assert len({manifest["fingerprint"] for manifest in manifests.values()}) == len(STAGES)


def test_finished_stages_leave_neither_partial_outputs_nor_checkpoints(finished):
    assert not [path for path in finished.paths() if ".partial" in path or ".old" in path or path.endswith(".ckpt")]


def test_a_second_repro_runs_nothing(finished):
    assert finished.repro() == []
    assert "up to date" in finished.run("dvc", "status")


def test_an_extraction_parameter_reruns_extraction_and_what_follows(finished, tmp_path):
    tree = finished.copy(tmp_path / "copy")
    before = tree.lock()
    text = (tree.root / "params.yaml").read_text(encoding="utf-8")
    assert text.count("assignment: argmax") == 1
    (tree.root / "params.yaml").write_text(text.replace("assignment: argmax", "assignment: paper"), encoding="utf-8")
    assert tree.repro() == ["extract_pseudomasks", "train_segmenter", "evaluate"]
    changed = {path for path, digest in tree.lock().items() if digest != before[path]}
    assert {"artifacts/pseudomasks", "artifacts/segmenter", "report/index.html", "metrics/evaluate.json"} <= changed
    assert not {"artifacts/shards", "artifacts/classifier", "artifacts/pruned"} & changed


def test_a_change_of_the_reports_code_reruns_the_evaluation_alone(finished, tmp_path):
    tree = finished.copy(tmp_path / "copy")
    with (tree.root / "ctm" / "evaluation" / "page.py").open("a", encoding="utf-8") as file:
        file.write("\n# another line\n")
    assert tree.repro() == ["evaluate"]
    assert tree.lock() == finished.lock(), "a comment changes no result"


def test_a_clean_clone_elsewhere_gives_the_same_bytes(finished, tmp_path):
    other = finished.clone(tmp_path / "quite" / "another place")
    assert not (other.root / "artifacts").exists()
    write_demo(other.root / "data" / "demo", train=24, val=8, size=32)
    assert other.repro() == list(STAGES)
    assert other.lock() == finished.lock()
    for name in STAGES:
        path = Path("metrics") / f"{name}.json"
        assert (other.root / path).read_bytes() == (finished.root / path).read_bytes()
