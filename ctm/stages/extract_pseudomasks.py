"""Stage extract_pseudomasks: one mask for every image, from the classifier and the image-level labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctm.pseudomasks.config import ExtractConfig
from ctm.runtime.context import Context
from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctm.data.shard_writer import ShardWriter
    from ctm.data.shards import Split
    from ctm.pseudomasks.extract import PseudoMask

__all__ = ["STAGE"]


class ExtractStageConfig(Config):
    """What extract_pseudomasks reads of params.yaml."""

    extract_pseudomasks: ExtractConfig


def run(config: ExtractStageConfig, context: Context, *, shards: Path, pruned: Path, pseudomasks: Path) -> Metrics:
    """Writes shards of masks whose keys are those of ``shards``; returns counts and coverage per split."""
    from ctm.data.classes import check_same_classes
    from ctm.data.shard_index import ShardIndex, write_index
    from ctm.data.shard_writer import ShardWriter
    from ctm.data.shards import ShardFolder
    from ctm.models.io import load_classifier
    from ctm.pseudomasks.extract import extract_pseudomasks
    from ctm.training.device import pick_device

    settings = config.extract_pseudomasks
    data = ShardFolder.open(shards)
    model, classes, inputs = load_classifier(pruned)
    check_same_classes(shards=data.classes, pruned=classes)
    entries, metrics = {}, Metrics()
    for name in settings.splits:
        split = data.split(name)
        masks = extract_pseudomasks(
            model,
            split,
            inputs,
            classes=classes,
            config=settings,
            device=pick_device(context.device),
            workers=context.workers,
            description=f"pseudo-masks of {name}",
        )
        with ShardWriter(pseudomasks, name, classes=classes) as writer:
            metrics[name] = _write(masks, split, writer, tokens=classes.tokens)
        entries[name] = writer.entry
    index = ShardIndex(
        kind="masks",
        classes=classes.names,
        background=classes.background,
        splits=entries,
        about=settings.model_dump(mode="json"),
    )
    write_index(pseudomasks, index)
    return metrics


def _write(masks: Iterable[PseudoMask], split: Split, writer: ShardWriter, *, tokens: tuple[int, ...]) -> Metrics:
    from ctm.data.classes import IGNORE
    from ctm.data.sample import encode_mask

    empty, decided, pixels = 0, 0, 0
    for found in masks:
        height, width = found.mask.shape
        candidates = [tokens[c] for c in found.candidates.nonzero()[0]]
        writer.add(
            split.keys[found.index],
            {"png": encode_mask(found.mask)},
            labels=candidates,
            height=height,
            width=width,
            georeference=split.georeference(found.index),
        )
        empty += not candidates
        decided += int((found.mask != IGNORE).sum())
        pixels += found.mask.size
    return {"samples": len(split), "empty": empty, "coverage": decided / pixels if pixels else None}


STAGE = Stage(
    name="extract_pseudomasks",
    summary="Turn class-token maps and image-level labels into one mask for every image.",
    config=ExtractStageConfig,
    run=run,
    inputs={"shards": Ref("preprocess", "shards"), "pruned": Ref("prune_heads", "pruned")},
    outputs={"pseudomasks": Output(Kind.DATASET, "artifacts/pseudomasks")},
    profile=Profile.GPU,
)
