"""Pseudo-masks as shards: a split is written and counted, be the masks new or from parts. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.shard_index import SplitIndex
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import Split
from ctm.stage import Metrics

__all__ = ["MEMBER", "EncodedMask", "write_masks"]

MEMBER = "png"
"""The shards' member that holds a pseudo-mask."""


@dataclass(frozen=True)
class EncodedMask:
    """A pseudo-mask and its file.

    Attributes:
        index: of the sample in its split.
        png: the mask as it is stored.
        mask: (H, W) mask values, 255 where undecided.
        candidates: (C,) the classes that could be painted.
    """

    index: int
    png: bytes
    mask: NDArray[np.uint8]
    candidates: NDArray[np.bool_]


def write_masks(
    folder: Path, split: Split, masks: Iterable[EncodedMask], *, classes: ClassTable
) -> tuple[SplitIndex, Metrics]:
    """Writes the masks of a split, whose keys and georeferences they take.

    Args:
        folder: where the shards go.
        split: the images.
        masks: one for every image, in order; one is in memory at a time.
        classes: what the mask values mean.

    Returns:
        What the index says of the split, and its metrics: ``samples``, how many are ``empty`` for want of a candidate,
        and the ``coverage``, the fraction of decided pixels.
    """
    empty, decided, pixels = 0, 0, 0
    with ShardWriter(folder, split.name, classes=classes) as writer:
        for found in masks:
            height, width = found.mask.shape
            candidates = [classes.tokens[c] for c in found.candidates.nonzero()[0]]
            writer.add(
                split.keys[found.index],
                {MEMBER: found.png},
                labels=candidates,
                height=height,
                width=width,
                georeference=split.georeference(found.index),
            )
            empty += not candidates
            decided += int((found.mask != IGNORE).sum())
            pixels += found.mask.size
    return writer.entry, {"samples": len(split), "empty": empty, "coverage": decided / pixels if pixels else None}
