"""Training of the segmenter on pseudo-masks. Ground-truth masks are never opened here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ctm.data.classes import IGNORE, ClassTable, check_same_classes
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset, make_loader
from ctm.data.shards import ShardFolder
from ctm.errors import ArtifactError
from ctm.evaluation.masks import MaskScore
from ctm.models.segmenter import SegmenterSpec, build_segmenter
from ctm.runtime.context import Context, Precision
from ctm.training.checkpoints import Checkpoints
from ctm.training.config import TrainSegmenterConfig
from ctm.training.device import setup_fabric
from ctm.training.loop import Batch, Progress, fit
from ctm.training.optimiser import build_optimiser

__all__ = ["SegmenterTask", "train_segmenter"]


class SegmenterTask:
    """Cross-entropy of every decided pixel of the pseudo-masks."""

    monitor = "pseudo_miou"

    def __init__(self, classes: ClassTable) -> None:
        self._classes = classes

    def losses(self, model: nn.Module, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Mean cross-entropy over the pixels that are not ignored; 0 where all of them are."""
        logits = model(batch["image"]).float()  # (B, K, H, W)
        total = cross_entropy(logits, batch["mask"], ignore_index=IGNORE, reduction="sum")
        return {"loss": total / (batch["mask"] != IGNORE).sum().clamp(min=1)}

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float | None]:
        """Agreement with the pseudo-masks of the val split: no truth is involved."""
        score = MaskScore(self._classes)
        for batch in batches:
            predicted = model(batch["image"]).argmax(dim=1).to(torch.uint8).cpu().numpy()
            for mask, pseudo in zip(predicted, batch["mask"].to(torch.uint8).cpu().numpy(), strict=True):
                score.update(mask, pseudo)
        return {"pseudo_miou": score.compute()["miou"]}


def train_segmenter(
    data: ShardFolder,
    pseudomasks: ShardFolder,
    *,
    image_size: tuple[int, int],
    training: TrainSegmenterConfig,
    seed: int,
    precision: Precision,
    context: Context,
) -> tuple[nn.Module, SegmenterSpec, InputSpec, list[dict[str, Any]]]:
    """Trains a segmenter on the images of ``data`` and the masks of ``pseudomasks``.

    Returns:
        The model on the CPU in eval mode, its specification, what it does to a stored image, and one row an epoch.

    Raises:
        ArtifactError: the pseudo-masks belong to other classes, lack the train split, or decide no pixel of it.
        ModelError: the segmenter cannot be built as asked, or the loss is not finite.
    """
    check_same_classes(shards=data.classes, pseudomasks=pseudomasks.classes)
    if "train" not in pseudomasks.splits:
        raise ArtifactError(
            f"{pseudomasks.path} has no pseudo-masks of the train split: name it in extract_pseudomasks.splits."
        )
    if not pseudomasks.split("train").labels.any():
        raise ArtifactError(
            f"{pseudomasks.path}: no train image has a candidate class, so every pixel is ignored and there is nothing "
            "to learn from. With extract_pseudomasks.label_source predicted, lower its threshold or train longer."
        )
    inputs = InputSpec(image_size, data.channels, data.scale, data.mean, data.std)
    spec = SegmenterSpec(training.arch, training.encoder, training.options)
    fabric = setup_fabric(context.device, precision)
    torch.manual_seed(seed)
    network = build_segmenter(spec, inputs, num_classes=len(data.classes.names), pretrained=training.pretrained)
    optimiser = build_optimiser(
        network,
        training,
        rates={"encoder": training.lr, "decoder": training.decoder_lr or training.lr},
        group_of=lambda name: "encoder" if name.startswith("encoder.") else "decoder",
    )
    splits: tuple[str, ...] = ("train", "val")
    loaders = {
        split: make_loader(
            ShardDataset(
                data.split(split),
                inputs,
                masks=pseudomasks.split(split),
                augment=training.augment if split == "train" else None,
                seed=seed,
            ),
            batch_size=training.batch_size,
            shuffle=split == "train",
            seed=seed,
            workers=context.workers,
        )
        for split in splits
        if split in pseudomasks.splits
    }
    history = fit(
        SegmenterTask(data.classes),
        network,
        optimiser,
        fabric=fabric,
        loaders=loaders,
        config=training,
        seed=seed,
        checkpoints=Checkpoints(context.checkpoints, resume=context.resume, store=context.checkpoint_store),
    )
    return network.cpu(), spec, inputs, history
