"""Stage extract_pseudomasks: one mask for every image, from the classifier and the image-level labels."""

from __future__ import annotations

from pathlib import Path

from ctm.pseudomasks.config import ExtractConfig
from ctm.runtime.context import WHOLE, Context
from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Stage

__all__ = ["STAGE"]


class ExtractStageConfig(Config):
    """What extract_pseudomasks reads of params.yaml."""

    extract_pseudomasks: ExtractConfig


def run(config: ExtractStageConfig, context: Context, *, shards: Path, pruned: Path, pseudomasks: Path) -> Metrics:
    """Writes shards of masks whose keys are those of ``shards``; returns counts, coverage and the classifier's mAP.

    A run of one part of the samples does so for these; the stage merge_pseudomasks makes a whole of all parts. Of
    several processes each makes the masks of a share, and the first joins them to the bytes that one process writes.
    With strategy ``auto`` every part chooses by the same images of the whole train split, and with ``tokens:
    candidates`` by the same images of each split whether these suffice.
    """
    from ctm.data.classes import check_same_classes
    from ctm.data.shards import ShardFolder
    from ctm.models.io import load_classifier
    from ctm.pseudomasks.extraction import Extraction
    from ctm.pseudomasks.parts import PartRecord
    from ctm.runtime.digest import digest_artifact
    from ctm.training.device import decoding_workers, pick_device
    from ctm.training.processes import joined

    data = ShardFolder.open(shards, kind="images")
    model, classes, inputs = load_classifier(pruned)
    check_same_classes(shards=data.classes, pruned=classes)
    device = pick_device(context.device, context.launch)
    with joined(context.launch, device) as processes:
        extraction = Extraction(data, model, inputs, device=device, workers=decoding_workers(context, device))
        plan = processes.by_first(lambda: extraction.plan(config.extract_pseudomasks))
        if context.part != WHOLE:
            digests = {"shards": digest_artifact(shards), "pruned": digest_artifact(pruned)}
            record = PartRecord(number=context.part.number, count=context.part.count, **digests)
            plan.about["part"] = record.model_dump(mode="json")
        if processes.world == 1:
            metrics = extraction.write(pseudomasks, plan, context.part)
        else:
            own = [pseudomasks / f"process-{rank}" for rank in range(processes.world)]
            extraction.write(own[processes.rank], plan, context.part.of_process(context.launch))
            processes.wait()
            metrics = extraction.join(pseudomasks, plan, context.part, own) if processes.is_first else {}
    return metrics


STAGE = Stage(
    name="extract_pseudomasks",
    summary="Turn class-token maps and image-level labels into one mask for every image.",
    config=ExtractStageConfig,
    run=run,
    inputs={"shards": Ref("preprocess", "shards"), "pruned": Ref("prune_heads", "pruned")},
    outputs={"pseudomasks": Output(Kind.DATASET, "artifacts/pseudomasks")},
    profile=Profile.GPU,
    shown=("train.coverage", "val.coverage"),
    divisible=True,
    distributed=True,
)
