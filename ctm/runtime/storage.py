"""A tree of files to read from, wherever it lies: a local folder or an S3 bucket."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from ctm.errors import StorageError

__all__ = ["FileStat", "LocalTree", "Tree", "is_remote", "listing_digest", "open_tree"]

S3 = "s3://"


class FileStat(NamedTuple):
    """What a listing tells of a file."""

    size: int
    """Bytes."""
    stamp: str | int
    """Changes when the contents change: time of the last change (local), ETag (S3)."""


class Tree(Protocol):
    """Files by their path relative to the tree's root, with ``/`` between the parts.

    Trees can be sent to other processes: what is sent is the place, not the listing.
    """

    uri: str
    """Where the tree lies, as the user wrote it."""

    @property
    def files(self) -> Mapping[str, FileStat]:
        """All files, in ascending order of their paths; listed once.

        Raises:
            StorageError: the place cannot be listed.
        """

    @property
    def refused(self) -> Mapping[str, str]:
        """Files that are there and are not read, with the reason, such as a link that leads out of the tree."""

    def read(self, path: str) -> bytes:
        """The contents of a file.

        Raises:
            StorageError: the file is missing or cannot be read.
        """

    def read_all(self, files: Mapping[str, FileStat]) -> dict[str, bytes]:
        """The contents of several files, which must still be what the listing said of them.

        Raises:
            StorageError: a file is missing, cannot be read, or has changed since it was listed.
        """

    def place(self, path: str) -> str:
        """How messages name a file of the tree."""


def is_remote(uri: str) -> bool:
    """Whether ``uri`` is no local path."""
    return uri.startswith(S3)


def open_tree(uri: str) -> Tree:
    """The tree at a local path or at ``s3://bucket/prefix``.

    Raises:
        StorageError: the address has no bucket, or reading from S3 needs a library that is not installed.
    """
    if not is_remote(uri):
        return LocalTree(uri)
    from ctm.runtime.s3 import S3Tree

    return S3Tree(uri)


def listing_digest(tree: Tree, *, stamps: bool = False) -> str:
    """Digest of the names and sizes of a tree's files: cheap, for raw data, whose contents DVC versions.

    Args:
        tree: the files.
        stamps: count in when each file was last changed, so that it differs between copies of the same data.
    """
    digest = hashlib.sha256()
    for path, stat in tree.files.items():
        digest.update(f"{path}\0{stat.size}\0{stat.stamp if stamps else ''}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class LocalTree:
    """A local folder.

    Attributes:
        uri: its path.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __reduce__(self) -> tuple[type[LocalTree], tuple[str]]:
        return type(self), (self.uri,)

    @property
    def files(self) -> Mapping[str, FileStat]:
        """All files in ascending order; hidden files and links out of the folder are not among them."""
        return self._listing[0]

    @property
    def refused(self) -> Mapping[str, str]:
        """Links that lead out of the folder or nowhere."""
        return self._listing[1]

    def read(self, path: str) -> bytes:
        """The contents of a file."""
        return self._read(path)[0]

    def read_all(self, files: Mapping[str, FileStat]) -> dict[str, bytes]:
        """The contents of several files, one after the other."""
        contents = {}
        for path, listed in files.items():
            contents[path], stat = self._read(path)
            if stat != listed or len(contents[path]) != listed.size:
                raise StorageError(f"{self.place(path)} has changed since it was listed; run the command again")
        return contents

    def place(self, path: str) -> str:
        """The file's path."""
        return str(Path(self.uri, path))

    def _read(self, path: str) -> tuple[bytes, FileStat]:
        try:
            with Path(self.uri, path).open("rb") as file:
                return file.read(), _file_stat(os.fstat(file.fileno()))
        except OSError as error:
            raise StorageError(f"{self.place(path)} cannot be read: {error.strerror}") from error

    @cached_property
    def _listing(self) -> tuple[dict[str, FileStat], dict[str, str]]:
        root = Path(self.uri)
        if not root.is_dir():
            wrong = "is a file" if root.exists() else "does not exist"
            raise StorageError(f"the raw data folder {root} {wrong}; set dataset.root to where the data lie")
        files: dict[str, FileStat] = {}
        refused: dict[str, str] = {}
        for path, stat in _walk(root):
            if isinstance(stat, str):
                refused[path] = stat
            else:
                files[path] = stat
        return {path: files[path] for path in sorted(files)}, {path: refused[path] for path in sorted(refused)}


def _walk(root: Path, *above: Path, prefix: str = "") -> Iterator[tuple[str, FileStat | str]]:
    """Every file below ``root / prefix`` with what is known of it, or with the reason why it is not read.

    ``above`` are the real places of the folders on the way here: a link to one of them would lead round in a circle.
    """
    above = (*above, (root / prefix).resolve())
    for entry in _entries(root / prefix):
        path = f"{prefix}{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and (reason := _refusal(Path(entry.path), above)):
            yield path, reason
        elif entry.is_dir():
            yield from _walk(root, *above, prefix=f"{path}/")
        elif entry.is_file():
            yield path, _file_stat(entry.stat())


def _file_stat(stat: os.stat_result) -> FileStat:
    return FileStat(stat.st_size, stat.st_mtime_ns)


def _refusal(link: Path, above: tuple[Path, ...]) -> str | None:
    """Why a link is not followed; None if it is."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # the latter, before Python 3.13, if it leads to itself
        return "a symbolic link that leads nowhere"
    if target in above:
        return f"a symbolic link in a circle, to {target}; remove it"
    if not target.is_relative_to(above[0]):
        return f"a symbolic link out of the data folder, to {target}; put the files themselves there"
    return None


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder, one by one: folders of data sets are large."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise StorageError(f"{folder} cannot be listed: {error.strerror}") from error
