"""Digests: they change with contents and names, and big shards are not read again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ctm.runtime.digest import digest_artifact
from tests.runtime.conftest import folder


def test_a_files_digest_is_its_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"data")
    assert digest_artifact(tmp_path / "a") == hashlib.sha256(b"data").hexdigest()


def test_a_folders_digest_depends_on_names_and_bytes_alone(tmp_path: Path):
    base = digest_artifact(folder(tmp_path / "base", **{"a": "1", "sub/b": "2"}))
    assert digest_artifact(folder(tmp_path / "same", **{"sub/b": "2", "a": "1"})) == base
    others = [
        digest_artifact(folder(tmp_path / "bytes", **{"a": "1", "sub/b": "3"})),
        digest_artifact(folder(tmp_path / "name", **{"a": "1", "sub/c": "2"})),
        digest_artifact(folder(tmp_path / "place", **{"a": "1", "b": "2"})),
        digest_artifact(folder(tmp_path / "more", **{"a": "1", "sub/b": "2", "c": ""})),
        digest_artifact(folder(tmp_path / "moved", **{"a": "2", "sub/b": "1"})),
    ]
    assert len({base, *others}) == 6


def test_shards_are_known_by_their_index(tmp_path: Path):
    base = digest_artifact(folder(tmp_path, **{"index.json": "{}", "train-00000.tar": "1"}))
    assert base == hashlib.sha256(b"{}").hexdigest()
    assert digest_artifact(folder(tmp_path, **{"index.json": '{"sha256": 1}'})) != base
