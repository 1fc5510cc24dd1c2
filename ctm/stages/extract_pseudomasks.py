"""Stage extract_pseudomasks: one mask for every image, from the classifier and the image-level labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctm.pseudomasks.config import ExtractConfig
from ctm.runtime.context import WHOLE, Context
from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Stage

if TYPE_CHECKING:
    import torch

    from ctm.data.classes import ClassTable
    from ctm.data.inputs import InputSpec
    from ctm.data.shards import Split
    from ctm.models.class_token_vit import ClassTokenViT
    from ctm.pseudomasks.mask_shards import EncodedMask
    from ctm.pseudomasks.readings import Reading

__all__ = ["STAGE"]

logger = logging.getLogger(__name__)


class ExtractStageConfig(Config):
    """What extract_pseudomasks reads of params.yaml."""

    extract_pseudomasks: ExtractConfig


def run(config: ExtractStageConfig, context: Context, *, shards: Path, pruned: Path, pseudomasks: Path) -> Metrics:
    """Writes shards of masks whose keys are those of ``shards``; returns counts, coverage and the classifier's mAP.

    A run of one part of the samples does so for these; the stage merge_pseudomasks makes a whole of all parts. With
    strategy ``auto`` every part chooses by the same images of the whole train split, and with ``tokens: candidates`` by
    the same images of each split whether these suffice.
    """
    from ctm.data.classes import check_same_classes
    from ctm.data.shard_index import ShardIndex, write_index
    from ctm.data.shards import ShardFolder
    from ctm.models.io import load_classifier
    from ctm.pseudomasks.auto import choose
    from ctm.pseudomasks.mask_shards import write_masks
    from ctm.pseudomasks.parts import CHOSEN, TOKENS, PartRecord, share_of
    from ctm.pseudomasks.ranking import not_learned
    from ctm.pseudomasks.readings import together
    from ctm.pseudomasks.token_choice import choose_tokens
    from ctm.runtime.digest import digest_artifact
    from ctm.training.device import pick_device

    settings, part = config.extract_pseudomasks, context.part
    work: dict[str, Any] = {"device": pick_device(context.device), "workers": context.workers}
    about = settings.model_dump(mode="json")
    data = ShardFolder.open(shards)
    model, classes, inputs = load_classifier(pruned)
    check_same_classes(shards=data.classes, pruned=classes)
    entries, metrics = {}, Metrics()
    if settings.strategy == "auto":
        choice = choose(model, data.split("train"), inputs, classes=classes, config=settings, **work)
        settings = choice.config
        about[CHOSEN] = metrics[CHOSEN] = {"recipe": choice.recipe, "scores": choice.scores}
    for name in settings.splits:
        split, used, compared = data.split(name), settings, None
        if settings.tokens == "candidates":
            tokens = choose_tokens(model, split, inputs, classes=classes, config=settings, **work)
            used, compared = tokens.config, tokens.metrics
            about.setdefault(TOKENS, {})[name] = compared
        split = split.between(share_of(part, samples=len(split), batch_size=together(settings)))
        masks = _masks(model, split, inputs, classes=classes, config=used, **work)
        entries[name], metrics[name] = write_masks(pseudomasks, split, masks, classes=classes)
        if compared is not None:
            metrics[name]["tokens"] = compared
        if part == WHOLE and metrics[name]["learned"] is False:  # a part may have too few images to say it
            logger.warning("%s", not_learned(name, metrics[name]["map"], metrics[name]["chance_map"]))
    if part != WHOLE:
        digests = {"shards": digest_artifact(shards), "pruned": digest_artifact(pruned)}
        about["part"] = PartRecord(number=part.number, count=part.count, **digests).model_dump(mode="json")
    index = ShardIndex(kind="masks", classes=classes.names, background=classes.background, splits=entries, about=about)
    write_index(pseudomasks, index)
    return metrics


def _masks(
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    *,
    classes: ClassTable,
    config: ExtractConfig,
    device: torch.device,
    workers: int,
) -> Iterator[EncodedMask]:
    """The masks of a split, in order; threads finish those of one batch while the model reads the next."""
    from ctm.pseudomasks.ahead import helpers, mapped
    from ctm.pseudomasks.extract import check_fill
    from ctm.pseudomasks.readings import read_split

    check_fill(config, classes)
    description = f"pseudo-masks of {split.name}"
    readings = read_split(model, split, inputs, config=config, device=device, workers=workers, description=description)
    finish = partial(_finished, classes=classes, config=config)
    return mapped(finish, readings, threads=helpers(), ahead=config.batch_size)


def _finished(reading: Reading, *, classes: ClassTable, config: ExtractConfig) -> EncodedMask:
    """What follows on the model for one image."""
    from ctm.data.sample import encode_mask
    from ctm.pseudomasks.extract import decide
    from ctm.pseudomasks.mask_shards import EncodedMask

    found = decide(reading, classes=classes, config=config)
    return EncodedMask(
        index=found.index,
        png=encode_mask(found.mask),
        mask=found.mask,
        candidates=found.candidates,
        logits=found.logits,
        confidence=None if found.confidence is None else encode_mask(found.confidence),
    )


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
