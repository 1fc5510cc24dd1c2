"""Recording: what a finished run has left in S3 or a folder comes into the tree whole, checked, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ctm.runtime.digest import digest_artifact
from pipelines.raw_data import has_changed, raw_data_digests
from pipelines.record import Record, comparison, fetch, find_run
from pipelines.server import Server
from tests.pipelines.conftest import Call, Tree
from tests.pipelines.kubeflow_server import KubeflowServer
from tests.seaweed import SeaweedServer

METRICS = {
    "segmenter": {"val": {"miou": 0.931, "classes": {"water": {"iou": 0.5}}}},
    "heads": {"sparsity": 0.625, "kept": [1, 2]},
    "note": "text",
}
Bring = Callable[..., Record]

EVALUATION, TRAINED = "ctm/r1/evaluate/e6", "ctm/r1/train-segmenter/e5/segmenter"
MODEL = {"model.json": b'{"arch": "unet"}', "weights/model.safetensors": bytes(range(256))}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Writes files below a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def encode(document: Any) -> bytes:
    return json.dumps(document).encode()


class Artifacts:
    """The artifacts of a run, written as Kubeflow's launcher lays them out, first in a folder."""

    def __init__(self, folder: Path, mounted: str, *, run: str = "r1", trained_by: str | None = None) -> None:
        self.folder, self.run = folder, run
        trained = folder / "ctm" / (trained_by or run) / "train-segmenter" / "e5" / "segmenter"
        shards = folder / "ctm" / run / "preprocess" / "e1" / "shards"
        write(trained, MODEL)
        write(shards, {"index.json": b"{}"})
        write(shards.parent, {"manifest": encode({"stage": "preprocess", "labels": {"raw_data": "abc"}})})
        self.inputs = {
            name: {"path": f"{mounted}/{path.relative_to(folder).as_posix()}", "sha256": digest_artifact(path)}
            for name, path in {"segmenter": trained, "shards": shards}.items()
        }
        self.evaluate("e6", METRICS)

    def evaluate(self, execution: str, metrics: Any) -> None:
        """Writes what an evaluation leaves."""
        manifest = {"stage": "evaluate", "inputs": self.inputs, "labels": {"run": self.run}}
        files = {"metrics": encode(metrics), "manifest": encode(manifest), "report": b"<html>"}
        write(self.folder / "ctm" / self.run / "evaluate" / execution, files)


def add_run(server: KubeflowServer, root: str, run_id: str = "r1", **fields: Any) -> str:
    """A run of the pipeline ctm that the server says has succeeded."""
    spec = {"pipeline_spec": {"pipelineInfo": {"name": "ctm"}}}
    about = {"pipeline_spec": spec, "display_name": f"run {run_id}", "runtime_config": {"pipeline_root": root}}
    return server.add_run(**{"run_id": run_id, **about, **fields})


def written(tree: Tree) -> set[str]:
    """The files below models, those of git's among them."""
    files = (path.relative_to(tree.root) for path in (tree.root / "models").rglob("*") if path.is_file())
    return {path.as_posix() for path in files}


@pytest.fixture
def record(tree: Tree, server: KubeflowServer, succeed: Call) -> Call:
    return lambda *arguments: succeed("record", "--host", server.host, *arguments)


@pytest.fixture
def bring(server: KubeflowServer) -> Bring:
    """Records without giving the model to DVC, which takes a second, into the folder models."""

    def run(run: str = "r1", **where: Any) -> Record:
        return fetch(find_run(Server(server.host), run), Path("models"), **where)

    return run


@pytest.fixture
def refuse(server: KubeflowServer, fail: Call, tree: Tree) -> Call:
    """The message of a refusal after which the tree is as it was."""

    def run(*arguments: object) -> str:
        before = tree.git("status", "--porcelain")
        message = fail("record", "--host", server.host, *arguments)
        assert tree.git("status", "--porcelain") == before
        return message

    return run


@pytest.mark.parametrize("scheme", ["minio", "s3"])
def test_a_run_in_s3_becomes_a_change_that_can_be_committed(
    tree: Tree, server: KubeflowServer, record: Call, s3_server: SeaweedServer, tmp_path: Path, scheme: str
):
    bucket, prefix = s3_server.bucket, f"record/{scheme}"
    artifacts = Artifacts(tmp_path / "artifacts", f"/{scheme}/{bucket}/{prefix}")
    s3_server.upload(prefix, artifacts.folder)
    run = add_run(server, f"{scheme}://{bucket}/{prefix}/?endpoint=http%3A%2F%2Fminio")
    out = record("--run", run)

    assert {name: (tree.root / "models/segmenter" / name).read_bytes() for name in MODEL} == MODEL
    assert json.loads((tree.root / "models/evaluate.json").read_text()) == METRICS
    assert json.loads((tree.root / "models/evaluate.manifest.json").read_text())["labels"] == {"run": "r1"}
    add = "git add models/evaluate.json models/evaluate.manifest.json models/preprocess.manifest.json"
    assert f"{add} models/segmenter.dvc models/.gitignore && git commit" in out
    new = (".gitignore", "evaluate.json", "evaluate.manifest.json", "preprocess.manifest.json", "segmenter.dvc")
    status = tree.git("status", "--porcelain", "--untracked-files=all")
    assert status == "".join(f"?? models/{name}\n" for name in new)
    assert "up to date" in tree.dvc("status", "models/segmenter.dvc")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(("segm", "heads"))}
    assert rows == {"segmenter.val.miou": ["0.931"], "heads.sparsity": ["0.625"]}


@pytest.fixture
def local(tree: Tree, server: KubeflowServer, tmp_path: Path) -> Artifacts:
    """Artifacts in a folder, and a run that left them there."""
    artifacts = Artifacts(tmp_path / "artifacts", str(tmp_path / "artifacts"))
    add_run(server, str(artifacts.folder))
    return artifacts


def test_the_next_record_shows_what_has_changed_since_main(tree: Tree, local: Artifacts, bring: Bring, record: Call):
    bring()
    (tree.root / ".gitignore").write_text("/models/segmenter/\n")
    tree.commit("first model")
    tree.git("switch", "--quiet", "--create", "retrain")
    better = {"segmenter": {"val": {"miou": 0.943}}, "heads": {"sparsity": 0.5}, "new": {"score": 1}}
    local.evaluate("e6", better)
    table = record("--run", "r1", "--into", "models").split("\n\n")[1].splitlines()
    assert [line.split() for line in table] == [
        ["main", "now", "change"],
        ["segmenter.val.miou", "0.931", "0.943", "+0.012"],
        ["heads.sparsity", "0.625", "0.5", "-0.125"],
        ["new.score", "1"],
    ]
    tree.git("branch", "--quiet", "--delete", "--force", "main")
    assert "+0.012" not in "".join(comparison(Path("models/evaluate.json")))


def test_a_model_from_the_cache_is_found_where_an_earlier_run_left_it(
    tree: Tree, server: KubeflowServer, bring: Bring, tmp_path: Path
):
    artifacts = Artifacts(tmp_path / "artifacts", str(tmp_path / "artifacts"), run="r2", trained_by="r1")
    add_run(server, str(artifacts.folder), "r2")
    bring("r2")
    assert (tree.root / "models/segmenter/model.json").read_bytes() == MODEL["model.json"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(
            ({"state": state}, f"run r1 is {state.lower()}: only a run that has succeeded is recorded. See {{url}}.")
            for state in ("FAILED", "RUNNING", "CANCELED")
        ),
        ({"pipeline_spec": {}}, "does not say which pipeline it is of"),
        ({"runtime_config": {"pipeline_root": "oci://x"}}, "are read from gs://, minio://, s3:// and folders"),
        ({"run_id": "r2"}, "answers 404 Not Found: V2beta1Run r1 not found"),
    ],
)
def test_a_run_that_cannot_be_recorded_is_refused(
    server: KubeflowServer, refuse: Call, fields: dict[str, Any], message: str
):
    add_run(server, "s3://bucket/root", **fields)
    assert message.format(url=f"{server.host}/#/runs/details/r1") in refuse("--run", "r1")


def test_a_run_without_an_evaluation_of_its_own_is_to_be_submitted_again(
    server: KubeflowServer, refuse: Call, s3_server: SeaweedServer, tmp_path: Path
):
    for root in (f"minio://{s3_server.bucket}/record/empty", str(tmp_path)):
        add_run(server, root)
        message = refuse("--run", "r1")
        for words in ("run run r1 has no artifacts of evaluate in", "--no-cache", "--pipeline-root"):
            assert words in message


def test_a_storage_that_refuses_is_no_missing_evaluation(
    server: KubeflowServer, refuse: Call, s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    add_run(server, f"s3://{s3_server.bucket}/record/x")
    message = refuse("--run", "r1")
    assert "refuses access" in message
    assert "--no-cache" not in message


def test_a_model_that_was_not_evaluated_is_refused_and_nothing_is_written(
    tree: Tree, local: Artifacts, bring: Bring, refuse: Call
):
    bring()
    before = written(tree)
    (local.folder / TRAINED / "model.json").write_bytes(b"{}")
    local.evaluate("e6", {"segmenter": {"val": {"miou": 1.0}}})
    message = refuse("--run", "r1")
    assert "is not the one that was evaluated" in message
    assert written(tree) == before
    assert (tree.root / "models/segmenter/model.json").read_bytes() == MODEL["model.json"]
    assert json.loads((tree.root / "models/evaluate.json").read_text()) == METRICS


def test_what_ctm_did_not_write_is_not_replaced(tree: Tree, local: Artifacts, refuse: Call):
    mine = write(tree.root / "models/segmenter", {"notes.txt": b"mine"})
    assert "is no model that ctm wrote, and would be replaced" in refuse("--run", "r1")
    assert (mine / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.evaluate("e7", METRICS), "has 2 evaluations, as a sweep has"),
        (lambda found: (found.folder / EVALUATION / "manifest").unlink(), "has no evaluation that has ended"),
        (lambda found: write(found.folder / EVALUATION, {"manifest": b"{"}), f"{EVALUATION}/manifest is no JSON"),
        *(
            (lambda found, text=text: write(found.folder / EVALUATION, {"manifest": text}), "names no segmenter")
            for text in (b"[]", b"{}", b'{"inputs": {"segmenter": null}}')
        ),
        (
            lambda found: (found.folder / TRAINED).rename(found.folder / "elsewhere"),
            f"artifacts/{TRAINED}: submit it again with --no-cache",
        ),
    ],
)
def test_artifacts_that_are_not_those_of_one_whole_evaluation_are_refused(
    tree: Tree, local: Artifacts, refuse: Call, change: Callable[[Artifacts], object], message: str
):
    change(local)
    assert message in refuse("--run", "r1")
    assert written(tree) == set()


def test_the_callers_pipeline_root_wins(tree: Tree, local: Artifacts, server: KubeflowServer, record: Call):
    add_run(server, "s3://bucket/nowhere")
    record("--run", "r1", "--pipeline-root", local.folder)
    assert "models/segmenter/model.json" in written(tree)


def test_without_dvc_the_error_says_what_is_there_already(
    tree: Tree, local: Artifacts, server: KubeflowServer, fail: Call
):
    (tree.root / ".dvc" / "config").unlink()
    (tree.root / ".dvc").rename(tree.root / "gone")
    message = fail("record", "--host", server.host, "--run", "r1")
    assert "models/segmenter is written, but `dvc add models/segmenter` fails" in message
    assert "not inside of a DVC repository" in message
    assert "models/evaluate.json" in written(tree)


def test_what_was_recorded_tells_new_data_from_old(tree: Tree, local: Artifacts, bring: Bring):
    bring()
    recorded = [tree.root / "models" / "preprocess.manifest.json", tree.root / "models" / "evaluate.manifest.json"]
    assert has_changed("data/demo", recorded)
    recorded[0].write_text(json.dumps({"labels": {"raw_data": raw_data_digests("data/demo")[0]}}))
    assert not has_changed("data/demo", recorded[:1])
    bring()
    assert json.loads(recorded[0].read_text())["labels"]["raw_data"] == "abc"
