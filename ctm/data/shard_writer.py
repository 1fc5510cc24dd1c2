"""Writing shards, sample by sample, so that a broken-off run can go on after its last closed shard."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ctm.data.classes import ClassTable
from ctm.data.sample import Georeference
from ctm.data.shard_index import SAFE_KEY, ShardFile, SplitIndex
from ctm.errors import ArtifactError
from ctm.runtime.digest import digest_artifact
from ctm.stage import Config

__all__ = ["Finished", "ShardWriter"]

MEGABYTE = 1_000_000


class Finished(Config):
    """What a writer has finished of a split: its closed shards, and the records that speak of them."""

    shards: tuple[ShardFile, ...] = ()
    """The closed shards, in order."""
    records: ShardFile | None = None
    """The file of records, as far as it speaks of these shards."""


class ShardWriter:
    """Writes one split of a shard folder, sample by sample; a context manager.

    >>> with ShardWriter(folder, "train", classes=classes, shard_mb=256) as writer:
    ...     writer.add("a", {"png": data}, labels=(0, 2), height=64, width=64)
    >>> write_index(folder, ShardIndex(kind="masks", ..., splits={"train": writer.entry}))

    Memory does not grow with the samples' size. If the block fails, no index is written and the folder does not open;
    a new writer that gets ``finished`` goes on behind the last closed shard.
    """

    def __init__(
        self, folder: Path, split: str, *, classes: ClassTable, shard_mb: int = 256, finished: Finished | None = None
    ) -> None:
        """Creates ``folder`` where it is missing.

        Args:
            folder: where the shards go.
            split: name of the split.
            classes: what the labels mean.
            shard_mb: a shard is closed by the sample that brings it to this many megabytes.
            finished: what an earlier writer had finished in this folder; None to begin.

        Raises:
            ArtifactError: a finished shard, or the records of one, is no longer as it was written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._split, self._classes = folder, split, classes
        self._limit = shard_mb * MEGABYTE
        self._shard: _HashingFile | None = None
        self._shards: list[ShardFile] = []
        self._keys: set[str] = set()
        self._labels = dict.fromkeys(classes.token_names, 0)
        self._entry: SplitIndex | None = None
        self._finished = finished or Finished()
        self._records = self._continued_records(self._finished)

    def add(
        self,
        key: str,
        members: Mapping[str, bytes],
        *,
        labels: Sequence[int],
        height: int,
        width: int,
        georeference: Georeference | None = None,
    ) -> bool:
        """Appends one sample.

        Args:
            key: unique in the split; letters, digits, ``_`` and ``-``.
            members: the sample's files by extension, such as ``{"jpg": ..., "mask.png": ...}``.
            labels: image-level labels as mask values, never the background.
            height: rows of the image in pixels.
            width: columns of the image in pixels.
            georeference: where the image lies on Earth, if that is known.

        Returns:
            Whether this sample has closed a shard, so that ``finished`` has grown.

        Raises:
            ValueError: the key is unsafe or was added before, or a label has no class token.
        """
        if not re.fullmatch(SAFE_KEY, key) or key in self._keys:
            raise ValueError(f"key {key!r} is {'a duplicate' if key in self._keys else 'no safe file name'}")
        if not set(labels) <= set(self._classes.tokens):
            raise ValueError(f"labels {tuple(labels)} of {key!r} are not all among {self._classes.tokens}")
        self._count(key, labels)
        shard = self._shard = self._shard or _HashingFile(self._folder / f"{self._split}-{len(self._shards):05d}.tar")
        offsets = {
            extension: [_append_member(shard, f"{key}.{extension}", data), len(data)]
            for extension, data in members.items()
        }
        shard.samples += 1
        record = {"key": key, "shard": len(self._shards), "labels": list(labels), "height": height, "width": width}
        if georeference is not None:
            record["georeference"] = asdict(georeference)
        self._records.write(json.dumps({**record, "members": offsets}).encode() + b"\n")
        self._records.samples += 1
        if shard.size < self._limit:
            return False
        self._close_shard()
        return True

    @property
    def finished(self) -> Finished:
        """The shards that are closed; all of them once the ``with`` block has ended."""
        return self._finished

    @property
    def entry(self) -> SplitIndex:
        """What ``index.json`` says of the split; known once the ``with`` block has ended without an error."""
        if self._entry is None:
            raise RuntimeError("the split is still being written, or failed")
        return self._entry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._records.close()
            if self._shard is not None:
                self._shard.close()
            return
        self._close_shard()
        self._entry = SplitIndex(
            samples=self._records.samples,
            labels=self._labels,
            records=self._records.close(),
            shards=tuple(self._shards),
        )

    def _count(self, key: str, labels: Sequence[int]) -> None:
        self._keys.add(key)
        for value in labels:
            self._labels[self._classes.names[value]] += 1

    def _close_shard(self) -> None:
        if self._shard is None:
            return
        # Two empty blocks end an archive; writers pad it to a whole record.
        padding = 2 * tarfile.BLOCKSIZE
        padding += -(self._shard.size + padding) % tarfile.RECORDSIZE
        self._shard.write(bytes(padding))
        self._shards.append(self._shard.close())
        self._shard = None
        self._finished = Finished(shards=tuple(self._shards), records=self._records.so_far())

    def _continued_records(self, finished: Finished) -> _HashingFile:
        """The file of records, at the end of those of ``finished``, whose samples are counted in."""
        path = self._folder / f"{self._split}.jsonl"
        for shard in finished.shards:
            file = self._folder / shard.file
            if not file.is_file() or digest_artifact(file) != shard.sha256:
                raise ArtifactError(f"{file} is not as it was written")
        self._shards = list(finished.shards)
        kept = b""
        if finished.records is not None:
            kept = path.read_bytes()[: finished.records.bytes] if path.is_file() else b""
            if hashlib.sha256(kept).hexdigest() != finished.records.sha256:
                raise ArtifactError(f"{path} is not as it was written")
        records = _HashingFile(path)
        records.write(kept)
        for line in kept.splitlines():
            record = json.loads(line)
            self._count(record["key"], record["labels"])
            records.samples += 1
        return records


class _HashingFile:
    """A file being written whose size and digest are known at the end without reading it again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self.size = 0
        self.samples = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def so_far(self) -> ShardFile:
        """What has been written; it need not be on the disk yet, since whoever reads it checks the digest."""
        self._file.flush()
        return ShardFile(file=self._path.name, samples=self.samples, bytes=self.size, sha256=self._digest.hexdigest())

    def close(self) -> ShardFile:
        written = self.so_far()
        self._file.close()
        return written


def _append_member(file: _HashingFile, name: str, data: bytes) -> int:
    """Appends a tar member; returns the offset of its data."""
    header = tarfile.TarInfo(name)  # time, user and group are 0 and the mode is 644 unless set
    header.size = len(data)
    file.write(header.tobuf(tarfile.GNU_FORMAT))
    offset = file.size
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset
