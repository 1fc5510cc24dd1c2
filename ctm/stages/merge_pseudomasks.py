"""Stage merge_pseudomasks: the parts of an extraction become what an undivided run writes. No torch here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ctm.data.classes import check_same_classes
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shards import ShardFolder, Split
from ctm.errors import ArtifactError
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.mask_shards import EncodedMask, read_mask, write_masks
from ctm.pseudomasks.parts import AGAIN, CHOSEN, TOKENS, order_parts
from ctm.pseudomasks.ranking import not_learned
from ctm.runtime.context import Context
from ctm.runtime.digest import digest_artifact
from ctm.runtime.progress import track
from ctm.stage import Config, Kind, Metrics, Output, Parts, Profile, Ref, Stage

__all__ = ["STAGE"]

logger = logging.getLogger(__name__)


class MergeStageConfig(Config):
    """What merge_pseudomasks reads of params.yaml: what the parts must have been made with."""

    extract_pseudomasks: ExtractConfig


def run(
    config: MergeStageConfig, context: Context, *, shards: Path, parts: Sequence[Path], pseudomasks: Path
) -> Metrics:
    """Writes the masks of all parts, in the order of ``shards``; the same bytes and metrics as of an undivided run.

    Raises:
        ArtifactError: a part is missing, doubled or damaged, or does not belong to the others, the images or the
            parameters.
    """
    settings = config.extract_pseudomasks
    about = settings.model_dump(mode="json")
    data = ShardFolder.open(shards)
    ordered = order_parts([ShardFolder.open(part) for part in parts], settings=about, shards=digest_artifact(shards))
    check_same_classes(shards=data.classes, **{name: folder.classes for name, folder in ordered.items()})
    entries, metrics = {}, Metrics()
    first = next(iter(ordered.values())).index.about
    if settings.strategy == "auto":
        about[CHOSEN] = metrics[CHOSEN] = first[CHOSEN]
    if settings.tokens == "candidates":
        about[TOKENS] = first[TOKENS]
    for name in settings.splits:
        split = data.split(name)
        read = _masks(split, ordered, confidence=settings.confidence)
        masks = track(read, description=f"pseudo-masks of {name}", total=len(split))
        entries[name], metrics[name] = write_masks(pseudomasks, split, masks, classes=data.classes)
        if settings.tokens == "candidates":
            metrics[name]["tokens"] = about[TOKENS][name]
        if metrics[name]["learned"] is False:
            logger.warning("%s", not_learned(name, metrics[name]["map"], metrics[name]["chance_map"]))
    index = ShardIndex(
        kind="masks", classes=data.classes.names, background=data.classes.background, splits=entries, about=about
    )
    write_index(pseudomasks, index)
    return metrics


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


STAGE = Stage(
    name="merge_pseudomasks",
    summary="Join the pseudo-masks of all parts of the images.",
    config=MergeStageConfig,
    run=run,
    inputs={"shards": Ref("preprocess", "shards"), "parts": Parts("extract_pseudomasks", "pseudomasks")},
    outputs={"pseudomasks": Output(Kind.DATASET, "artifacts/pseudomasks")},
    profile=Profile.CPU,
)
