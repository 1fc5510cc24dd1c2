"""SHA-256 digests of the files and folders that stages read and write."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["digest_artifact"]


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


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
