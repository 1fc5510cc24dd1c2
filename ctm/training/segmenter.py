"""Training of the segmenter on pseudo-masks. The truth is opened only where ``supervision: truth`` asks for it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctm.data.classes import IGNORE, ClassTable, check_same_classes
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset
from ctm.data.shards import TRUTH, ShardFolder, Split
from ctm.errors import ArtifactError
from ctm.evaluation.masks import MaskScore
from ctm.models.segmenter import SegmenterSpec, build_segmenter, freeze_encoder, set_grad_checkpointing
from ctm.models.vit_segmenter import ARCH as VIT
from ctm.runtime.context import Context, Precision
from ctm.training.config import TrainSegmenterConfig
from ctm.training.device import at_least_fp32, decoding_workers
from ctm.training.loop import Batch, Progress
from ctm.training.noisy_labels import LOSSES
from ctm.training.processes import ALONE, Processes
from ctm.training.self_training import number_rows, write_own_masks
from ctm.training.session import Session
from ctm.training.statistics import share_statistics

__all__ = ["SegmenterTask", "train_segmenter"]

logger = logging.getLogger(__name__)


HALF = ("bf16", "fp16")
"""Precisions in which convolutions are faster with the channels last; on a CPU in fp32 some are slower by half."""


class SegmenterTask:
    """A loss over every decided pixel of the masks."""

    monitor = "pseudo_miou"
    methods: tuple[str, ...] = ()

    def __init__(self, classes: ClassTable, *, loss: str = "ce", processes: Processes = ALONE) -> None:
        self._classes = classes
        self._loss = LOSSES[loss]
        self._processes = processes

    def losses(self, model: nn.Module, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Mean loss over the pixels that are not ignored; 0 where all of them are.

        The mean of several processes is that of all their pixels: each counts by how many it has.
        """
        mask = batch["mask"]
        logits = at_least_fp32(model(batch["image"]))  # (B, K, H, W)
        loss = self._loss(logits, mask)
        if self._processes.world > 1:
            decided = (mask != IGNORE).sum().double()
            loss = loss * (decided / self._processes.mean(decided).clamp(min=1)).to(loss.dtype)
        return {"loss": loss}

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float | None]:
        """Agreement with the pseudo-masks of the val split: no truth is involved."""
        score = MaskScore(self._classes)
        for batch in batches:
            predicted = model(batch["image"]).argmax(dim=1).to(torch.uint8).cpu().numpy()
            for mask, pseudo in zip(predicted, batch["mask"].to(torch.uint8).cpu().numpy(), strict=True):
                score.update(mask, pseudo)
        score.matrix = np.sum(self._processes.gather(score.matrix), axis=0)
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
    """Trains a segmenter on the images of ``data`` and the masks of ``pseudomasks``, in rounds if that is asked for.

    Every round starts from the same weights. Its masks are those that the segmenter of the round before gives the train
    images; an interrupted run goes through its finished rounds again without training, and so ends in the same bytes.

    Returns:
        The model on the CPU in eval mode, its specification, what it does to a stored image, and one row an epoch, with
        its ``round`` where there are several.

    Raises:
        ArtifactError: the pseudo-masks belong to other classes, lack the train split or the confidence that is asked
            for, or decide no pixel of it; or the truth is asked for and there is none.
        ModelError: the segmenter cannot be built as asked, or the loss is not finite.
    """
    check_same_classes(shards=data.classes, pseudomasks=pseudomasks.classes)
    with Session.opened(training, seed=seed, precision=precision, context=context) as session:
        spec = SegmenterSpec(training.arch, training.encoder, training.options)
        course = _Course(data, pseudomasks, data.input_spec(image_size), spec, training, session)
        network, history = course.learn(_first_lesson(data, pseudomasks, training), number=0)
        for number in range(1, training.self_training + 1):
            logger.info("self-training, round %d of %d", number, training.self_training)
            network, rows = course.learn(course.next_lesson(network, number=number), number=number)
            history += rows
    return network.cpu(), course.spec, course.inputs, history


@dataclass(frozen=True)
class _Lesson:
    """What the train split is learned from: its masks, their member, and which of its images have one (None: all)."""

    masks: Split
    member: str = "png"
    samples: Sequence[int] | None = None


@dataclass(frozen=True)
class _Course:
    """One or several trainings that differ in the masks of the train split alone."""

    data: ShardFolder
    pseudomasks: ShardFolder
    inputs: InputSpec
    spec: SegmenterSpec
    training: TrainSegmenterConfig
    session: Session

    def learn(self, lesson: _Lesson, *, number: int) -> tuple[nn.Module, list[dict[str, Any]]]:
        """Trains a fresh segmenter; returns it and its rows of the history. Round 0 is the first."""
        network = self._fresh()
        history = self.session.fit(
            SegmenterTask(self.data.classes, loss=self.training.loss, processes=self.session.processes),
            network,
            self.session.loaders(self._datasets(lesson)),
            rates={"encoder": self.training.lr, "decoder": self.training.decoder_lr or self.training.lr},
            group_of=lambda name: "encoder" if name.startswith("encoder.") else "decoder",
            number=number,
        )
        return network, number_rows(history, number) if self.training.self_training else history

    def next_lesson(self, network: nn.Module, *, number: int) -> _Lesson:
        """The train split as ``network`` sees it, for the round of that number."""
        context, device, processes = self.session.context, self.session.device, self.session.processes
        folder = context.checkpoints / f"masks-{number}"
        if processes.is_first:
            write_own_masks(
                folder,
                network,
                self.data.split("train"),
                self.pseudomasks.split("train"),
                self.inputs,
                classes=self.data.classes,
                device=device,
                batch_size=self.training.batch_size,
                workers=decoding_workers(context, device),
            )
        processes.wait()
        if not folder.is_dir():
            raise ArtifactError(
                f"{folder} is missing, which the first process has written: self_training on several machines needs "
                "--checkpoints on a folder that all of them reach."
            )
        return _Lesson(ShardFolder.open(folder).split("train"))

    def _fresh(self) -> nn.Module:
        """A segmenter with its first weights, the same in every round."""
        torch.manual_seed(self.session.seed)
        classes = len(self.data.classes.names)
        network = build_segmenter(self.spec, self.inputs, num_classes=classes, pretrained=self.training.pretrained)
        if self.training.arch != VIT and self.session.precision in HALF:
            network.to(memory_format=torch.channels_last)
        if self.training.freeze_encoder:
            freeze_encoder(network)
        if self.training.grad_checkpointing:
            set_grad_checkpointing(network)
        return share_statistics(network, self.session.device, self.session.processes)

    def _datasets(self, lesson: _Lesson) -> dict[str, ShardDataset]:
        """Images of train with the masks to be learned, and of val with its pseudo-masks if it has any.

        The epochs are compared by pseudo-masks even where the truth is learned: chosen by the truth of val, the upper
        bound would be scored on what it was chosen by.
        """
        train = ShardDataset(
            self.data.split("train"),
            self.inputs,
            masks=lesson.masks,
            mask_member=lesson.member,
            min_confidence=self.training.min_confidence,
            samples=lesson.samples,
            augment=self.training.augment,
            seed=self.session.seed,
        )
        if "val" not in self.pseudomasks.splits:
            return {"train": train}
        val = ShardDataset(self.data.split("val"), self.inputs, masks=self.pseudomasks.split("val"))
        return {"train": train, "val": val}


def _first_lesson(data: ShardFolder, pseudomasks: ShardFolder, training: TrainSegmenterConfig) -> _Lesson:
    """The pseudo-masks of the train split, or its true masks where these are asked for."""
    if training.supervision == "truth":
        return _true_lesson(data)
    if "train" not in pseudomasks.splits:
        raise ArtifactError(
            f"{pseudomasks.path} has no pseudo-masks of the train split: name it in extract_pseudomasks.splits."
        )
    masks = pseudomasks.split("train")
    if not masks.labels.any():
        raise ArtifactError(
            f"{pseudomasks.path}: no train image has a candidate class, so every pixel is ignored and there is nothing "
            "to learn from. With extract_pseudomasks.label_source predicted, lower its threshold or train longer."
        )
    return _Lesson(masks)


def _true_lesson(data: ShardFolder) -> _Lesson:
    """The true masks of the train images that have one."""
    split = data.split("train")
    samples = [index for index in range(len(split)) if split.has(index, TRUTH)]
    if not samples:
        raise ArtifactError(
            f"{data.path}: no train image has a true mask, which train_segmenter.supervision: truth learns from. Give "
            "the raw data masks and run preprocess again, or set supervision: pseudomasks."
        )
    logger.warning(
        "supervision is truth: %d of %d train images are learned from true masks. This segmenter is an upper bound for "
        "comparison, no result of image-level labels.",
        len(samples),
        len(split),
    )
    return _Lesson(split, TRUTH, samples)
