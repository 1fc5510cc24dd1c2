"""Stage extract_pseudomasks: one mask for every image, from the classifier and the image-level labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ctm.pseudomasks.config import ExtractConfig
from ctm.runtime.context import WHOLE, Context
from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Stage

if TYPE_CHECKING:
    from ctm.pseudomasks.extract import PseudoMask
    from ctm.pseudomasks.mask_shards import EncodedMask

__all__ = ["STAGE"]


class ExtractStageConfig(Config):
    """What extract_pseudomasks reads of params.yaml."""

    extract_pseudomasks: ExtractConfig


def run(config: ExtractStageConfig, context: Context, *, shards: Path, pruned: Path, pseudomasks: Path) -> Metrics:
    """Writes shards of masks whose keys are those of ``shards``; returns counts and coverage per split.

    A run of one part of the samples does so for these; the stage merge_pseudomasks makes a whole of all parts.
    """
    from ctm.data.classes import check_same_classes
    from ctm.data.shard_index import ShardIndex, write_index
    from ctm.data.shards import ShardFolder
    from ctm.models.io import load_classifier
    from ctm.pseudomasks.extract import extract_pseudomasks
    from ctm.pseudomasks.mask_shards import write_masks
    from ctm.pseudomasks.parts import PartRecord, share_of
    from ctm.runtime.digest import digest_artifact
    from ctm.training.device import pick_device

    settings, part = config.extract_pseudomasks, context.part
    data = ShardFolder.open(shards)
    model, classes, inputs = load_classifier(pruned)
    check_same_classes(shards=data.classes, pruned=classes)
    entries, metrics = {}, Metrics()
    for name in settings.splits:
        split = data.split(name)
        split = split.between(share_of(part, samples=len(split), batch_size=settings.batch_size))
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
        entries[name], metrics[name] = write_masks(pseudomasks, split, _encoded(masks), classes=classes)
    about = settings.model_dump(mode="json")
    if part != WHOLE:
        digests = {"shards": digest_artifact(shards), "pruned": digest_artifact(pruned)}
        about["part"] = PartRecord(number=part.number, count=part.count, **digests).model_dump(mode="json")
    index = ShardIndex(kind="masks", classes=classes.names, background=classes.background, splits=entries, about=about)
    write_index(pseudomasks, index)
    return metrics


def _encoded(masks: Iterable[PseudoMask]) -> Iterator[EncodedMask]:
    from ctm.data.sample import encode_mask
    from ctm.pseudomasks.mask_shards import EncodedMask

    for found in masks:
        yield EncodedMask(found.index, encode_mask(found.mask), found.mask, found.candidates)


STAGE = Stage(
    name="extract_pseudomasks",
    summary="Turn class-token maps and image-level labels into one mask for every image.",
    config=ExtractStageConfig,
    run=run,
    inputs={"shards": Ref("preprocess", "shards"), "pruned": Ref("prune_heads", "pruned")},
    outputs={"pseudomasks": Output(Kind.DATASET, "artifacts/pseudomasks")},
    profile=Profile.GPU,
    divisible=True,
)
