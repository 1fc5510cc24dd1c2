"""Few big files between the stages: tar shards named as WebDataset names them, an index, and reading by offset.

A folder holds:

    index.json            what the folder is: ``ShardIndex``; written last, so that a broken-off folder has none
    train.jsonl           a line a sample: key, shard, labels, height, width, members {"jpg": [offset, bytes], ...}
    train-00000.tar       <key>.jpg, <key>.mask.png, ...
    val.jsonl ...

The same samples give the same bytes: tar headers carry no time, user or rights of the machine that wrote them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.sample import Georeference, decode_image, decode_mask
from ctm.data.shard_index import INDEX, SAFE_KEY, ShardFile, ShardIndex, SplitIndex
from ctm.errors import ArtifactError, DataError
from ctm.runtime.digest import digest_artifact

__all__ = ["CONFIDENCE", "TRUTH", "ShardFolder", "Split"]

TRUTH = "mask.png"
"""Member that holds the ground-truth mask of an image; for evaluation alone."""
CONFIDENCE = "confidence"
"""Member that holds how sure the pixels of a pseudo-mask are: grey, 255 times the winner's share."""
IMAGE_MEMBERS = ("jpg", "png", "npy")


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
        column = {value: token for token, value in enumerate(classes.tokens)}
        self.keys: list[str] = []
        self.labels = np.zeros((entry.samples, len(column)), dtype=bool)
        self.sizes = np.zeros((entry.samples, 2), dtype=np.int64)
        self._shard_of = np.zeros(entry.samples, dtype=np.int32)
        self._members: dict[str, NDArray[np.int64]] = {}  # (N, 2) offset and bytes, -1 where a sample lacks the member
        self._georeferences: dict[int, Georeference] = {}
        for index, record in enumerate(_records(folder, entry)):
            try:
                self._add(index, record, column=column, shards=entry.shards)
            except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
                raise ArtifactError(
                    f"{folder / entry.records.file} is damaged: record {index + 1} is none of this folder "
                    f"({type(error).__name__}: {error}); run its stage again"
                ) from error
        self._members = dict(sorted(self._members.items()))
        self._positions = {key: index for index, key in enumerate(self.keys)}

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def members(self) -> tuple[str, ...]:
        """The members that at least one sample has."""
        return tuple(self._members)

    def between(self, samples: range) -> Self:
        """The samples from the first to before the last of a range, as a split of the same name."""
        chosen = slice(samples.start, samples.stop)
        part = copy(self)
        part.keys, part.labels, part.sizes = self.keys[chosen], self.labels[chosen], self.sizes[chosen]
        part._shard_of = self._shard_of[chosen]
        part._members = {member: places[chosen] for member, places in self._members.items()}
        part._georeferences = {i - samples.start: at for i, at in self._georeferences.items() if i in samples}
        part._positions = {key: index for index, key in enumerate(part.keys)}
        return part

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

    def georeference(self, index: int) -> Georeference | None:
        """Where a sample's image lies on Earth; None if its source did not say."""
        return self._georeferences.get(index)

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
        """A mask of a sample, (H, W): an image's truth (``mask.png``), a pseudo-mask (``png``), or its ``confidence``.

        Raises:
            ArtifactError: the sample has no such member, or its bytes are damaged.
        """
        try:
            return decode_mask(self.read(index, member))
        except DataError as error:
            raise self._damaged(index, member) from error

    def _add(
        self, index: int, record: Mapping[str, Any], *, column: Mapping[int, int], shards: Sequence[ShardFile]
    ) -> None:
        """Takes in a record, which somebody else may have written."""
        shard = shards[record["shard"]]
        self.keys.append(record["key"])
        self.labels[index, [column[value] for value in record["labels"]]] = True
        self.sizes[index] = record["height"], record["width"]
        self._shard_of[index] = record["shard"]
        for member, (offset, size) in record["members"].items():
            if not (offset >= 0 and 0 <= size <= shard.bytes - offset):
                raise ValueError(f"{member} lies outside of {shard.file}")
            if member not in self._members:
                self._members[member] = np.full((len(self.sizes), 2), -1, dtype=np.int64)
            self._members[member][index] = offset, size
        if "georeference" in record:
            self._georeferences[index] = Georeference.from_dict(record["georeference"])

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
    def open(cls, path: Path, *, kind: Literal["images", "masks"] | None = None) -> Self:
        """Opens a folder that ``write_index`` completed.

        Args:
            path: the folder.
            kind: what it must hold; None: either.

        Raises:
            ArtifactError: the index is missing, damaged or of another version, a shard is missing or cut short, or the
                folder holds the other kind.
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
        if kind and index.kind != kind:
            stage = {"images": "preprocess", "masks": "extract-pseudomasks"}[kind]
            raise ArtifactError(f"{path} holds {index.kind}, no {kind}: name the folder that {stage} wrote.")
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

    def input_spec(self, image_size: tuple[int, int]) -> InputSpec:
        """The input of a model that learns from the train split at a height and width of its own."""
        height, width = np.median(self.split("train").sizes, axis=0).round().astype(int).tolist()
        return InputSpec(
            image_size,
            self.channels,
            self.scale,
            self.mean,
            self.std,
            values=self.index.values,
            stored_size=(height, width),
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.index.splits)

    @property
    def tune(self) -> frozenset[str]:
        """Keys of train samples by whose masks settings were chosen."""
        return frozenset(self.index.tune)

    @property
    def tune_samples(self) -> list[int]:
        """Their positions in the train split, ascending."""
        tune = self.tune
        return [index for index, key in enumerate(self.split("train").keys) if key in tune] if tune else []

    def split(self, name: str) -> Split:
        """Opens a split.

        Raises:
            ArtifactError: there is no such split, or its records are damaged.
        """
        if name not in self.index.splits:
            raise ArtifactError(f"{self.path} has no split {name!r}; splits: {', '.join(self.splits)}")
        return Split(self.path, name, entry=self.index.splits[name], classes=self.classes)


def _records(folder: Path, entry: SplitIndex) -> Iterator[dict[str, Any]]:
    """The records of a split, one by one; they are checked before the first."""
    path = _checked(folder, entry.records)
    if digest_artifact(path) != entry.records.sha256:
        raise ArtifactError(f"{path} is damaged: its digest is not the one in {INDEX}; run its stage again")
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            key = record.get("key")
            if not isinstance(key, str) or not re.fullmatch(SAFE_KEY, key):
                raise ArtifactError(f"{path}: the key {key!r} is no safe file name; ctm has not written this folder")
            yield record


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
