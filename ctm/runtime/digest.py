"""SHA-256 digests of the files and folders that stages read and write."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ctm.runtime.progress import track

__all__ = ["damaged_file", "digest_artifact"]


def digest_artifact(path: Path) -> str:
    """Digest of a file's bytes, or of the names and bytes of all files in a folder.

    A folder of shards is known by its ``index.json``, which carries the digest of every other file in it, so that
    hundreds of gigabytes need not be read again.
    """
    index = path / "index.json"
    if path.is_file():
        return _digest_file(path)
    if index.is_file():
        return _digest_file(index)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_digest_file(file)}\n".encode())
    return digest.hexdigest()


def damaged_file(path: Path) -> Path | None:
    """The first file of a folder of shards that is not what its ``index.json`` says; None if all are, or without index.

    Reads everything, which ``digest_artifact`` does not.
    """
    index = path / "index.json"
    if not index.is_file():
        return None
    splits = json.loads(index.read_bytes())["splits"].values()
    listed = [file for split in splits for file in (split["records"], *split["shards"])]
    files = track(listed, description=f"checking {path.name}", unit="file")
    damaged = (path / file["file"] for file in files if _digest_file(path / file["file"]) != file["sha256"])
    return next(damaged, None)


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
