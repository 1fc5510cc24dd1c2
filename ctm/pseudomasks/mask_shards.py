"""Pseudo-masks as shards: a split is written and counted, be the masks new or from parts. No torch here."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.sample import encode_array
from ctm.data.shard_index import ShardIndex, SplitIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import CONFIDENCE, Split
from ctm.errors import ArtifactError
from ctm.pseudomasks.ahead import mapped
from ctm.pseudomasks.parts import CHOSEN, TOKENS
from ctm.pseudomasks.ranking import Ranking, has_learned, not_learned, rank
from ctm.stage import Metrics

__all__ = ["LOGITS", "MEMBER", "EncodedMask", "end_masks", "read_mask", "write_masks"]

logger = logging.getLogger(__name__)

MEMBER = "png"
"""The shards' member that holds a pseudo-mask."""

LOGITS = "logits.npy"
"""The member with the classifier's logits, (C,): the ranking of all images cannot be joined from those of parts."""


@dataclass(frozen=True)
class _Written:
    """What the metrics need of a mask that has been written."""

    index: int
    logits: NDArray[np.float32]
    empty: bool
    decided: int
    pixels: int


WAITING = 2
"""Masks that may wait to be written."""


@dataclass(frozen=True)
class EncodedMask:
    """A pseudo-mask and its files.

    Attributes:
        index: of the sample in its split.
        png: the mask as it is stored.
        mask: (H, W) mask values, 255 where undecided.
        candidates: (C,) the classes that could be painted.
        logits: (C,) of the classifier; NaN where they are not known.
        confidence: the confidence as it is stored, or None.
    """

    index: int
    png: bytes
    mask: NDArray[np.uint8]
    candidates: NDArray[np.bool_]
    logits: NDArray[np.float32]
    confidence: bytes | None = None


def write_masks(
    folder: Path, split: Split, masks: Iterable[EncodedMask], *, classes: ClassTable
) -> tuple[SplitIndex, Metrics]:
    """Writes the masks of a split, whose keys and georeferences they take.

    Args:
        folder: where the shards go.
        split: the images.
        masks: one for every image, in order. They are written by a thread of its own, so that making the next one does
            not wait for the disk; a few are in memory at a time, and the logits of all.
        classes: what the mask values mean.

    Returns:
        What the index says of the split, and its metrics: ``samples``, how many are ``empty`` for want of a candidate,
        the ``coverage``, the fraction of decided pixels; ``map`` of the classifier on these images by their image-level
        labels, ``chance_map`` of a random ranking, and whether it has ``learned``. None where there is nothing to say,
        as of a ranking where a logit is NaN: it was made from the candidates' tokens alone.
    """
    empty, decided, pixels = 0, 0, 0
    logits = np.zeros((len(split), len(classes.tokens)), dtype=np.float32)
    with ShardWriter(folder, split.name, classes=classes) as writer:
        write = partial(_write, writer, split, classes=classes)
        for written in mapped(write, masks, threads=1, ahead=WAITING):
            logits[written.index] = written.logits
            empty += written.empty
            decided += written.decided
            pixels += written.pixels
    ranking = Ranking(None, None, []) if np.isnan(logits).any() else rank(logits, split.labels)
    return writer.entry, {
        "samples": len(split),
        "empty": empty,
        "coverage": decided / pixels if pixels else None,
        "map": ranking.map,
        "chance_map": ranking.chance,
        "learned": None if ranking.map is None else has_learned(ranking.map, ranking.chance),
    }


def end_masks(
    folder: Path,
    found: Mapping[str, tuple[SplitIndex, Metrics]],
    *,
    classes: ClassTable,
    about: Mapping[str, Any],
    whole: bool,
) -> Metrics:
    """Writes the index of a folder of masks, once those of every split are there; a warning if they are worth nothing.

    Args:
        folder: where the shards are.
        found: by split, what ``write_masks`` returned.
        classes: what the mask values mean.
        about: what the index says of the extraction; of ``auto``'s choice and of the tokens the metrics say it, too.
        whole: whether these are all masks of the splits; a part may have too few to say what they are worth.

    Returns:
        The metrics of all splits by their names.
    """
    splits = {name: entry for name, (entry, _) in found.items()}
    index = ShardIndex(
        kind="masks", classes=classes.names, background=classes.background, splits=splits, about=dict(about)
    )
    write_index(folder, index)
    metrics: Metrics = {name: figures for name, (_, figures) in found.items()}
    for name, tokens in about.get(TOKENS, {}).items():
        metrics[name]["tokens"] = tokens
    for name, figures in metrics.items():
        if whole and figures["learned"] is False:
            logger.warning("%s", not_learned(name, figures["map"], figures["chance_map"]))
    return {**{name: about[name] for name in [CHOSEN] if name in about}, **metrics}


def read_mask(split: Split, index: int, *, confidence: bool) -> EncodedMask:
    """Reads what ``write_masks`` wrote of a sample.

    Args:
        split: of a folder of pseudo-masks.
        index: of the sample in it.
        confidence: whether the masks have one.

    Raises:
        ArtifactError: a member is missing or damaged.
    """
    return EncodedMask(
        index=index,
        png=split.read(index, MEMBER),
        mask=split.mask(index, MEMBER),
        candidates=split.labels[index],
        logits=_logits(split, index),
        confidence=split.read(index, CONFIDENCE) if confidence else None,
    )


def _write(writer: ShardWriter, split: Split, found: EncodedMask, *, classes: ClassTable) -> _Written:
    """Writes one mask, which can be forgotten then."""
    height, width = found.mask.shape
    writer.add(
        split.keys[found.index],
        _members(found),
        labels=[classes.tokens[c] for c in found.candidates.nonzero()[0]],
        height=height,
        width=width,
        georeference=split.georeference(found.index),
    )
    return _Written(
        index=found.index,
        logits=found.logits,
        empty=not found.candidates.any(),
        decided=int((found.mask != IGNORE).sum()),
        pixels=found.mask.size,
    )


def _members(found: EncodedMask) -> dict[str, bytes]:
    members = {MEMBER: found.png, LOGITS: encode_array(found.logits)}
    return members if found.confidence is None else {**members, CONFIDENCE: found.confidence}


def _logits(split: Split, index: int) -> NDArray[np.float32]:
    try:
        logits: NDArray[np.float32] = np.load(io.BytesIO(split.read(index, LOGITS)), allow_pickle=False)
        if logits.dtype != np.float32 or logits.shape != split.labels.shape[1:]:
            raise ValueError(f"{logits.dtype} of shape {logits.shape}")
    except (EOFError, OSError, SyntaxError, ValueError) as error:
        raise ArtifactError(
            f"the logits of {split.keys[index]!r} in split {split.name!r} are damaged ({error}); run "
            "extract-pseudomasks again"
        ) from error
    return logits
