"""Preprocess reads raw data from S3 as it reads them from a folder, also when the server is killed under it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e.conftest import NOISE, demo_tree, photograph_tree, write_noise
from tests.seaweed import SeaweedServer

pytestmark = pytest.mark.slow


def shards(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "artifacts" / "shards").iterdir()}


def files(root: Path) -> set[bytes]:
    """The contents of all files, DVC's cache among them."""
    return {path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_dvc_repro_reads_a_bucket_without_a_local_copy(s3_server: SeaweedServer, tmp_path: Path):
    local = demo_tree(tmp_path / "local")
    local.run("dvc", "repro", "preprocess")
    remote = local.clone(tmp_path / "remote")
    uri = s3_server.upload("e2e/demo", local.root / "data" / "demo")
    remote.run("ctm", "init", "demo", "--force", "--set", f"dataset.root={uri}", "--set", "model.image_size=32")
    remote.run("dvc", "repro", "preprocess")
    assert shards(remote.root) == shards(local.root)
    assert remote.json("metrics/preprocess.manifest.json")["inputs"]["raw"]["path"] == uri
    assert not files(local.root / "data" / "demo") & files(remote.root), "there is a copy of a raw file"
    assert "didn't change, skipping" in remote.run("dvc", "repro", "preprocess")

    s3_server.put("e2e/demo", {"notes.txt": b"new"})
    assert f"modified:           {uri}" in remote.run("dvc", "status", "preprocess")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_after_the_server_was_killed_preprocess_goes_on_to_the_same_bytes(
    s3_server: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
):
    tree = photograph_tree(tmp_path / "tree")
    write_noise(tree.root / "noise")
    uri = s3_server.upload(f"e2e/killed{workers}", tree.root / "noise")
    tree.run("ctm", "init", "photographs", "--force", *(f"--set={setting}" for setting in NOISE))
    tree.run("ctm", "preprocess", "--raw", "noise", "--shards", "expected", "--metrics", "expected.json")

    command = ("ctm", "preprocess", "--raw", uri, "--workers", workers)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    process = tree.start(*command)
    while process.poll() is None and not list((tree.root / ".ctm").rglob("*00001.tar")):
        time.sleep(0.005)
    with s3_server.down():
        _, log = process.communicate(timeout=120)
    assert process.returncode == 1, f"it had ended before the server was killed: {log}"
    assert f"error: {uri}/images/p" in log
    assert f"{s3_server.endpoint} cannot be reached" in log
    assert "the same command goes on" in log
    assert "Traceback" not in log
    assert not (tree.root / "artifacts" / "shards").exists()
    assert not (tree.root / "metrics" / "preprocess.json").exists()

    log = tree.run(*command)
    assert "resuming after" in log
    expected = {path.name: path.read_bytes() for path in (tree.root / "expected").iterdir()}
    assert len(expected) > 12
    assert shards(tree.root) == expected
