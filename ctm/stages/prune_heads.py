"""Stage prune_heads: heads whose gate has closed are removed from the weights, and the result is checked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ctm.models.config import PruneHeadsConfig
from ctm.runtime.context import Context
from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Stage

__all__ = ["STAGE"]

logger = logging.getLogger(__name__)


class PruneHeadsStageConfig(Config):
    """What prune_heads reads of params.yaml."""

    prune_heads: PruneHeadsConfig


def run(config: PruneHeadsStageConfig, context: Context, *, shards: Path, classifier: Path, pruned: Path) -> Metrics:
    """Removes closed heads, refuses a model that differs from the gated one, and reports what was kept.

    Raises:
        ModelError: no head is open, or logits or maps of the two models differ by more than the tolerance.
    """
    import torch

    from ctm.data.classes import check_same_classes
    from ctm.data.loaders import ShardDataset
    from ctm.data.shards import ShardFolder
    from ctm.errors import ModelError
    from ctm.models.io import load_classifier, save_classifier
    from ctm.models.pruning import compare_models, forward_seconds, prune_heads
    from ctm.training.device import pick_device

    settings = config.prune_heads
    gated, classes, inputs = load_classifier(classifier)
    folder = ShardFolder.open(shards, kind="images")
    check_same_classes(shards=folder.classes, classifier=classes)
    data = ShardDataset(folder.split("val"), inputs)
    images = torch.stack([data[i]["image"] for i in range(min(settings.check_images, len(data)))])
    device = pick_device(context.device)
    gated, images = gated.to(device), images.to(device)
    small = prune_heads(gated)
    logger.info("  comparing and timing the gated and the pruned model on %d images of val", len(images))
    difference = compare_models(gated, small, images)
    if not difference <= settings.tolerance:
        raise ModelError(
            f"the pruned model differs from the gated one by {difference:.2g} in logits or maps, more than "
            f"prune_heads.tolerance {settings.tolerance:g}; it is not written. On a GPU, TF32 may be the reason: "
            "try --device cpu."
        )
    for name, model in (("forward_gated", gated), ("forward_pruned", small)):
        context.timings[name] = forward_seconds(model, images, repeats=5)
    save_classifier(pruned, small.cpu(), classes=classes, inputs=inputs)
    kept = [len(heads) for heads in small.kept_heads]
    total = gated.original_heads * len(kept)
    return {
        "sparsity": 1 - sum(kept) / total,
        "heads_kept": sum(kept),
        "heads": total,
        "kept_per_block": {str(block): count for block, count in enumerate(kept)},
        "max_difference": difference,
        "parameters": {"gated": _count(gated), "pruned": _count(small)},
    }


def _count(model: Any) -> int:
    return sum(int(parameter.numel()) for parameter in model.parameters())


STAGE = Stage(
    name="prune_heads",
    summary="Remove the heads whose gates have closed; check that nothing else changed.",
    config=PruneHeadsStageConfig,
    run=run,
    inputs={"shards": Ref("preprocess", "shards"), "classifier": Ref("train_classifier", "classifier")},
    outputs={"pruned": Output(Kind.MODEL, "artifacts/pruned")},
    profile=Profile.GPU,
    shown=("heads_kept", "heads"),
)
