"""Raw data and shards travel from one clone to another over a DVC remote on S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import photograph_tree
from tests.seaweed import SeaweedServer

pytestmark = pytest.mark.slow

TRACKED = ("data/photos", "artifacts/shards", "report")


def contents(root: Path) -> dict[str, bytes]:
    """What DVC keeps, by path."""
    files = (path for name in TRACKED for path in (root / name).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("named_by", ["endpointurl", "AWS_ENDPOINT_URL_S3"])
def test_what_one_clone_pushes_another_pulls(
    s3_server: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named_by: str
):
    first = photograph_tree(tmp_path / "first")
    first.run("dvc", "add", "data/photos")
    first.run("dvc", "repro", "preprocess")
    first.run("dvc", "remote", "add", "-d", "storage", f"s3://{s3_server.bucket}/dvc/{named_by}")
    if named_by == "endpointurl":
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
        first.run("dvc", "remote", "modify", "storage", "endpointurl", s3_server.endpoint)
    first.run("git", "add", ".")
    first.run("git", "-c", "user.name=e2e", "-c", "user.email=e2e@localhost", "commit", "--quiet", "-m", "shards")
    first.run("dvc", "push")

    second = first.clone(tmp_path / "second")
    assert not contents(second.root)
    assert "not in cache" in second.run("dvc", "status", "preprocess")
    second.run("dvc", "pull", "data/photos.dvc", "preprocess")
    assert contents(second.root) == contents(first.root)
    assert {"artifacts/shards/index.json", "report/data.png", "data/photos/labels.csv"} <= set(contents(second.root))
    assert "up to date" in second.run("dvc", "status", "preprocess", "data/photos.dvc")
    assert "didn't change, skipping" in second.run("dvc", "repro", "preprocess")
    assert "in sync" in second.run("dvc", "status", "--cloud", "preprocess", "data/photos.dvc")
