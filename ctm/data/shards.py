"""Few big files between the stages: tar shards named as WebDataset names them, an index, and reading by offset.

A folder holds::

    index.json            what the folder is: ``ShardIndex``; written last, so that a broken-off folder has none
    train.jsonl           a line a sample: key, shard, labels, height, width, members {"jpg": [offset, bytes], ...}
    train-00000.tar       <key>.jpg, <key>.mask.png, ...
    val.jsonl ...

The same samples give the same bytes: tar headers carry no time, user or rights of the machine that wrote them.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from ctm.data.classes import ClassTable
from ctm.data.sample import decode_image, decode_mask
from ctm.errors import ArtifactError, DataError
from ctm.stage import Config

__all__ = [
    "INDEX",
    "TRUTH",
    "ShardFile",
    "ShardFolder",
    "ShardIndex",
    "ShardWriter",
    "Split",
    "SplitIndex",
    "write_index",
]

INDEX = "index.json"
TRUTH = "mask.png"
"""Member that holds the ground-truth mask of an image; for evaluation alone."""
IMAGE_MEMBERS = ("jpg", "png", "npy")
MEGABYTE = 1_000_000


class ShardFile(Config):
    """A file of a shard folder."""

    file: str
    """Name in the folder."""
    samples: int
    """Samples in the file."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Digest of the file."""


class SplitIndex(Config):
    """The files and counts of one split."""

    samples: int
    """Samples in all shards."""
    labels: dict[str, int]
    """How many samples carry each image-level label, by class name."""
    records: ShardFile
    """The JSON lines, one a sample."""
    shards: tuple[ShardFile, ...]
    """The tar files, in order."""


class ShardIndex(Config):
    """Contents of ``index.json``."""

    format: Literal[1] = 1
    """Version of this layout."""
    kind: Literal["images", "masks"]
    """Images with their labels, or masks made for the images of another folder."""
    classes: tuple[str, ...]
    """Class names in the order of the mask values."""
    background: int | None
    """Mask value that has no class token."""
    channels: int = 1
    """Channels of the images; 1 for masks."""
    scale: float = 1.0
    """Multiplier that brings stored values to about [0, 1]; 1 for masks."""
    normalise: Literal["none", "imagenet", "statistics"] = "none"
    """Where mean and deviation come from."""
    mean: tuple[float, ...] | None = None
    """Mean of each scaled channel."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each scaled channel."""
    splits: dict[str, SplitIndex]
    """The splits by name."""
    about: dict[str, Any] = Field(default_factory=dict)
    """Whatever the writer records of how the contents came about (for pseudo-masks: strategy, label source)."""


class ShardWriter:
    """Writes one split of a shard folder, sample by sample; a context manager.

    >>> with ShardWriter(folder, "train", classes=classes, shard_mb=256) as writer:
    ...     writer.add("a", {"png": data}, labels=(0, 2), height=64, width=64)
    >>> write_index(folder, ShardIndex(kind="masks", ..., splits={"train": writer.entry}))

    Memory does not grow with the samples' size. If the block fails, no index is written and the folder does not open.
    """

    def __init__(self, folder: Path, split: str, *, classes: ClassTable, shard_mb: int = 256) -> None:
        """Creates ``folder`` where it is missing.

        Args:
            folder: where the shards go.
            split: name of the split.
            classes: what the labels mean.
            shard_mb: a shard is closed by the sample that brings it to this many megabytes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._split, self._classes = folder, split, classes
        self._limit = shard_mb * MEGABYTE
        self._records = _HashingFile(folder / f"{split}.jsonl")
        self._shard: _HashingFile | None = None
        self._shards: list[ShardFile] = []
        self._keys: set[str] = set()
        self._labels = dict.fromkeys(classes.token_names, 0)
        self._entry: SplitIndex | None = None

    def add(self, key: str, members: Mapping[str, bytes], *, labels: Sequence[int], height: int, width: int) -> None:
        """Appends one sample.

        Args:
            key: unique in the split; letters, digits, ``_`` and ``-``.
            members: the sample's files by extension, such as ``{"jpg": ..., "mask.png": ...}``.
            labels: image-level labels as mask values, never the background.
            height: rows of the image in pixels.
            width: columns of the image in pixels.

        Raises:
            ValueError: the key is unsafe or was added before, or a label has no class token.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", key) or key in self._keys:
            raise ValueError(f"key {key!r} is {'a duplicate' if key in self._keys else 'no safe file name'}")
        if not set(labels) <= set(self._classes.tokens):
            raise ValueError(f"labels {tuple(labels)} of {key!r} are not all among {self._classes.tokens}")
        self._keys.add(key)
        for value in labels:
            self._labels[self._classes.names[value]] += 1
        shard = self._shard = self._shard or _HashingFile(self._folder / f"{self._split}-{len(self._shards):05d}.tar")
        offsets = {
            extension: [_append_member(shard, f"{key}.{extension}", data), len(data)]
            for extension, data in members.items()
        }
        shard.samples += 1
        record = {"key": key, "shard": len(self._shards), "labels": list(labels), "height": height, "width": width}
        self._records.write(json.dumps({**record, "members": offsets}).encode() + b"\n")
        self._records.samples += 1
        if shard.size >= self._limit:
            self._close_shard()

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

    def _close_shard(self) -> None:
        if self._shard is None:
            return
        # Two empty blocks end an archive; writers pad it to a whole record.
        padding = 2 * tarfile.BLOCKSIZE
        padding += -(self._shard.size + padding) % tarfile.RECORDSIZE
        self._shard.write(bytes(padding))
        self._shards.append(self._shard.close())
        self._shard = None


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

    def close(self) -> ShardFile:
        self._file.close()
        return ShardFile(file=self._path.name, samples=self.samples, bytes=self.size, sha256=self._digest.hexdigest())


def _append_member(file: _HashingFile, name: str, data: bytes) -> int:
    """Appends a tar member; returns the offset of its data."""
    header = tarfile.TarInfo(name)  # time, user and group are 0 and the mode is 644 unless set
    header.size = len(data)
    file.write(header.tobuf(tarfile.GNU_FORMAT))
    offset = file.size
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def write_index(folder: Path, index: ShardIndex) -> None:
    """Completes a shard folder: writes ``index.json`` after everything that it speaks of."""
    (folder / INDEX).write_text(index.model_dump_json(indent=2) + "\n", encoding="utf-8")


class Split:
    """The samples of one split, read one by one from their offsets.

    It holds numbers and keys only, no open file: it can be copied to the worker processes of a data loader.

    Attributes:
        name: name of the split.
        keys: the samples' keys, in the order of the shards.
        labels: (N, C) image-level labels, a column a class token.
        sizes: (N, 2) height and width of each image in pixels.
    """

    def __init__(self, folder: Path, name: str, *, entry: SplitIndex, classes: ClassTable) -> None:
        """Reads the records of a split; ``ShardFolder.split`` is the usual way here.

        Raises:
            ArtifactError: a file of the split is missing or damaged.
        """
        self.name = name
        self._shards = [_checked(folder, shard) for shard in entry.shards]
        path = _checked(folder, entry.records)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry.records.sha256:
            raise ArtifactError(f"{path} is damaged: its digest is not the one in {INDEX}; run its stage again")
        records = [json.loads(line) for line in data.splitlines()]
        self.keys: list[str] = [record["key"] for record in records]
        present = [[token in record["labels"] for token in classes.tokens] for record in records]
        self.labels = np.array(present, dtype=bool).reshape(-1, len(classes.tokens))
        sizes = [(record["height"], record["width"]) for record in records]
        self.sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)
        self._positions = {key: index for index, key in enumerate(self.keys)}
        self._shard_of = np.array([record["shard"] for record in records], dtype=np.int64)
        names = sorted({name for record in records for name in record["members"]})
        self._members: dict[str, NDArray[np.int64]] = {  # (N, 2) offset and bytes, -1 where a sample lacks the member
            name: np.array([record["members"].get(name, (-1, -1)) for record in records], dtype=np.int64)
            for name in names
        }

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def members(self) -> tuple[str, ...]:
        """The members that at least one sample has."""
        return tuple(self._members)

    def index_of(self, key: str) -> int:
        """The position of a key.

        Raises:
            ArtifactError: the split has no such key.
        """
        if key not in self._positions:
            raise ArtifactError(
                f"split {self.name!r} has no sample {key!r}; it was made from other data: run the stages in order"
            )
        return self._positions[key]

    def has(self, index: int, member: str) -> bool:
        """Whether a sample has a member, such as ``mask.png``."""
        return member in self._members and bool(self._members[member][index, 0] >= 0)

    def read(self, index: int, member: str) -> bytes:
        """The bytes of a sample's member.

        Raises:
            ArtifactError: the sample has no such member, or the shard ends before it.
        """
        if not self.has(index, member):
            raise ArtifactError(
                f"sample {self.keys[index]!r} of split {self.name!r} has no {member!r}; "
                f"members of the split: {', '.join(self.members)}"
            )
        path = self._shards[self._shard_of[index]]
        offset, size = self._members[member][index].tolist()
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            data: bytes = file.read(size)
        if len(data) != size:
            raise ArtifactError(f"{path} is damaged: it ends before {self.keys[index]!r}.{member}; run its stage again")
        return data

    def image(self, index: int) -> NDArray[Any]:
        """The stored image of a sample, (Ch, H, W), unscaled; RGB for photographs.

        Raises:
            ArtifactError: the sample has no image, or its bytes are damaged.
        """
        extension = next((name for name in IMAGE_MEMBERS if self.has(index, name)), IMAGE_MEMBERS[0])
        try:
            return decode_image(self.read(index, extension), extension)
        except DataError as error:
            raise self._damaged(index, extension) from error

    def mask(self, index: int, member: str) -> NDArray[np.uint8]:
        """A mask of a sample, (H, W): member ``mask.png`` is an image's truth, ``png`` a pseudo-mask.

        Raises:
            ArtifactError: the sample has no such member, or its bytes are damaged.
        """
        try:
            return decode_mask(self.read(index, member))
        except DataError as error:
            raise self._damaged(index, member) from error

    def _damaged(self, index: int, member: str) -> ArtifactError:
        path = self._shards[self._shard_of[index]]
        return ArtifactError(f"{path} is damaged: {self.keys[index]}.{member} cannot be decoded; run its stage again")


class ShardFolder:
    """A complete shard folder.

    Attributes:
        path: the folder.
        index: contents of its ``index.json``.
        classes: what the mask values mean.
    """

    def __init__(self, path: Path, index: ShardIndex) -> None:
        """Use ``ShardFolder.open``, which validates the index."""
        self.path = path
        self.index = index
        self.classes = ClassTable(names=index.classes, background=index.background)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a folder that ``write_index`` completed.

        Raises:
            ArtifactError: the index is missing, damaged or of another version, or a shard is missing or cut short.
        """
        file = path / INDEX
        if not file.is_file():
            raise ArtifactError(f"{file} is missing: {path} is no complete shard folder; run the stage that writes it")
        try:
            values = json.loads(file.read_bytes())
            version = values["format"]
            if version != 1:
                raise ArtifactError(
                    f"{file} has format version {version}, this ctm reads version 1; run its stage again with this ctm"
                )
            index = ShardIndex.model_validate(values)
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
            raise ArtifactError(f"{file} is damaged ({type(error).__name__}: {error}); run its stage again") from error
        for split in index.splits.values():
            for entry in (split.records, *split.shards):
                _checked(path, entry)
        return cls(path, index)

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return self.index.channels

    @property
    def scale(self) -> float:
        """Multiplier that brings stored pixel values to about [0, 1]."""
        return self.index.scale

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Mean of each scaled channel; None where images are not standardised."""
        return self.index.mean

    @property
    def std(self) -> tuple[float, ...] | None:
        """Standard deviation of each scaled channel; None where images are not standardised."""
        return self.index.std

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.index.splits)

    def split(self, name: str) -> Split:
        """Opens a split.

        Raises:
            ArtifactError: there is no such split, or its records are damaged.
        """
        if name not in self.index.splits:
            raise ArtifactError(f"{self.path} has no split {name!r}; splits: {', '.join(self.splits)}")
        return Split(self.path, name, entry=self.index.splits[name], classes=self.classes)


def _checked(folder: Path, entry: ShardFile) -> Path:
    """The path of a file whose size is the recorded one; digests of big files are left to whoever copies them."""
    path = folder / entry.file
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, though {INDEX} lists it; run its stage again")
    if path.stat().st_size != entry.bytes:
        raise ArtifactError(
            f"{path} is damaged: {path.stat().st_size} bytes instead of {entry.bytes}; run its stage again"
        )
    return path
