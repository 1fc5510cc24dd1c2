"""The masks of several parts of a split as those of the whole, whoever has made the parts. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ctm.data.classes import ClassTable
from ctm.data.shard_index import SplitIndex
from ctm.data.shards import ShardFolder, Split
from ctm.errors import ArtifactError
from ctm.pseudomasks.mask_shards import EncodedMask, read_mask, write_masks
from ctm.pseudomasks.parts import AGAIN
from ctm.runtime.progress import track
from ctm.stage import Metrics

__all__ = ["join_masks"]


def join_masks(
    folder: Path, split: Split, parts: Mapping[str, ShardFolder], *, classes: ClassTable, confidence: bool
) -> tuple[SplitIndex, Metrics]:
    """Writes the masks of a split from those of its parts; the same bytes and metrics as of an undivided extraction.

    Args:
        folder: where the shards go.
        split: the images.
        parts: by their names in messages, in the order of their images.
        classes: what the mask values mean.
        confidence: whether the masks have one.

    Raises:
        ArtifactError: a part lacks an image, has one of another, or is damaged.
    """
    masks = track(
        _masks(split, parts, confidence=confidence), description=f"pseudo-masks of {split.name}", total=len(split)
    )
    return write_masks(folder, split, masks, classes=classes)


def _masks(split: Split, parts: Mapping[str, ShardFolder], *, confidence: bool) -> Iterator[EncodedMask]:
    """The masks of one split, part by part, each held against the image whose turn it is."""
    turn = 0
    for name, folder in parts.items():
        part = folder.split(split.name)
        for own, key in enumerate(part.keys):
            _check_turn(key, split, turn, name=name)
            yield replace(read_mask(part, own, confidence=confidence), index=turn)
            turn += 1
    if turn != len(split):
        raise ArtifactError(f"split {split.name!r} has {len(split)} images, but the parts hold {turn} masks; {AGAIN}")


def _check_turn(key: str, split: Split, turn: int, *, name: str) -> None:
    expected = split.keys[turn] if turn < len(split) else None
    if key != expected:
        place = "behind the last image" if expected is None else f"where that of {expected!r} belongs"
        raise ArtifactError(f"{name}: split {split.name!r} has the mask of {key!r} {place}; {AGAIN}")
