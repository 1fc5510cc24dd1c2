"""Training of the class-token transformer with head gates on image-level labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset
from ctm.data.shards import ShardFolder
from ctm.errors import ModelError
from ctm.evaluation.labels import LabelScore
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.pseudomasks.ranking import has_learned
from ctm.runtime.context import Context, Precision
from ctm.stage import Metrics
from ctm.training.config import TrainClassifierConfig
from ctm.training.device import GATE_STREAM, MASKING_STREAM, at_least_fp32, step_seed
from ctm.training.head_selection import HeadSelection
from ctm.training.history import kept_row
from ctm.training.loop import Batch, Progress
from ctm.training.processes import ALONE, Processes
from ctm.training.session import Session

__all__ = ["ClassifierTask", "train_classifier"]

logger = logging.getLogger(__name__)


class ClassifierTask:
    """Binary cross-entropy of every class (mean over images and classes) plus lambda times the open gates.

    Hanna & Borth, ICCV 2025, section 3; docs/method.md gives the exact terms. A patch head adds its own
    cross-entropy with weight 1 (Xu et al., MCTformer, CVPR 2022).
    """

    monitor = "map"
    methods: tuple[str, ...] = ("training_logits",)

    def __init__(
        self, config: TrainClassifierConfig, classes: ClassTable, *, seed: int, processes: Processes = ALONE
    ) -> None:
        self._config = config
        self._classes = classes
        self._seed = seed
        self._processes = processes

    def losses(self, model: nn.Module, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The loss, and its parts.

        Returns:
            ``loss``; ``bce`` on masked class tokens; ``bce_unmasked``, which shows what the classifier knows without
            the help of the mask, and is not learned from; ``patch_bce`` where there is a patch head; ``gates``, the
            number of open heads: the expected one, or that of a given sparsity.
        """
        labels, config = batch["labels"], self._config
        # The same in every process: its share of the batch is masked as it would be in the whole one.
        masking = self._generator(*MASKING_STREAM, progress.epoch, progress.batch)
        gates = self._generator(*GATE_STREAM, progress.step)
        masking_ratio = config.masking_ratio * progress.ramp(config.masking_warmup_epochs)
        logits = cast("ClassTokenViT", model).training_logits(
            batch["image"],
            labels,
            masking_ratio=masking_ratio,
            generator=masking,
            gate_generator=gates,
            rank=self._processes.rank,
            world=self._processes.world,
        )
        bce = _bce(logits.masked, labels)
        parts = {"bce": bce, "bce_unmasked": _bce(logits.unmasked, labels)}
        loss = bce
        if logits.patches is not None:
            parts["patch_bce"] = _bce(logits.patches, labels)
            loss = loss + parts["patch_bce"]
        if config.sparsity is None:
            parts["gates"] = cast("ClassTokenViT", model).gate_penalty()
            loss = loss + config.pruning_weight * progress.ramp(config.pruning_warmup_epochs) * parts["gates"]
        else:
            parts["gates"] = _open_heads(model).to(loss.dtype)
        return {"loss": loss, **parts}

    def _generator(self, *stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(step_seed(self._seed, *stream))

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float | None]:
        """Unmasked loss, mAP beside chance, the patch head's mAP, multi-label accuracy, and how many heads are open."""
        seen = [self._read(cast("ClassTokenViT", model), batch) for batch in batches]
        parts = [part for process in self._processes.gather(seen) for part in process]
        images = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        in_order = images.pop("index").argsort()
        images = {name: values[in_order] for name, values in images.items()}
        scores = self._score(images["logits"], images["labels"])
        return {
            "loss": float(images["loss"].mean()),
            "map": scores["map"],
            **({"patch_map": self._score(images["patches"], images["labels"])["map"]} if "patches" in images else {}),
            "accuracy": scores["accuracy"],
            "chance_map": scores["chance_map"],
            "open_heads": int(_open_heads(model)),
        }

    def _read(self, model: ClassTokenViT, batch: Batch) -> dict[str, Tensor]:
        """What the figures of a batch are made of, image by image, on the CPU."""
        labels = batch["labels"]
        logits = model.training_logits(batch["image"], labels, masking_ratio=0.0)
        unmasked = at_least_fp32(logits.unmasked)
        found = {
            "index": batch["index"],
            "labels": labels,
            "logits": unmasked,
            "loss": binary_cross_entropy_with_logits(unmasked, labels.to(unmasked.dtype), reduction="none"),
        }
        if logits.patches is not None:
            found["patches"] = logits.patches
        return {name: tensor.cpu() for name, tensor in found.items()}

    def _score(self, logits: Tensor, labels: Tensor) -> Metrics:
        score = LabelScore(self._classes)
        score.update(logits, labels)
        return score.compute()


def _bce(logits: Tensor, labels: Tensor) -> Tensor:
    logits = at_least_fp32(logits)
    return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def _open_heads(model: nn.Module) -> Tensor:
    return torch.stack([gate.open_heads().sum() for gate in cast("ClassTokenViT", model).gates]).sum()


def train_classifier(
    data: ShardFolder,
    *,
    model: ModelConfig,
    gates: GatesConfig,
    training: TrainClassifierConfig,
    seed: int,
    precision: Precision,
    context: Context,
) -> tuple[ClassTokenViT, InputSpec, list[dict[str, Any]]]:
    """Trains a classifier on the train split of ``data``.

    Returns:
        The model on the CPU in eval mode, what it does to a stored image, and one row an epoch.

    Raises:
        ModelError: the model cannot be built as asked, the loss is not finite, or every head was shut.
    """
    inputs = data.input_spec(model.size)
    with Session.opened(training, seed=seed, precision=precision, context=context) as session:
        torch.manual_seed(seed)
        network = ClassTokenViT(model, gates, num_classes=len(data.classes.tokens), in_channels=data.channels)
        if training.grad_checkpointing:
            network.set_grad_checkpointing()
        train = ShardDataset(data.split("train"), inputs, augment=training.augment, seed=seed)
        loaders = session.loaders({"train": train, "val": ShardDataset(data.split("val"), inputs)})
        history = session.fit(
            ClassifierTask(training, data.classes, seed=seed, processes=session.processes),
            network,
            loaders,
            rates=_rates(training),
            group_of=_group_of,
            before_step=_head_selection(network, training, batches=len(loaders["train"])),
        )
    network.cpu()
    _warn_of_chance(kept_row(history, keep=training.keep, monitor="val_map"))
    if not any(bool(gate.open_heads().any()) for gate in network.gates):
        raise ModelError(
            "every head gate has closed, so no head is left that could see the image. Lower "
            "train_classifier.pruning_weight or gate_lr, or lengthen pruning_warmup_epochs."
        )
    return network, inputs, history


def _rates(config: TrainClassifierConfig) -> dict[str, float]:
    """Peak learning rates; gates whose heads are closed on a schedule are no parameters to be learned."""
    gates = config.gate_lr if config.sparsity is None else 0.0
    return {"backbone": config.lr, "head": config.head_lr, "gates": gates}


def _head_selection(network: ClassTokenViT, config: TrainClassifierConfig, *, batches: int) -> HeadSelection | None:
    if config.sparsity is None:
        return None
    steps = math.ceil(batches / config.accumulate)
    return HeadSelection(
        network.gates,
        sparsity=config.sparsity,
        warmup=round(config.warmup_epochs * steps),
        steps=config.epochs * steps,
    )


def _warn_of_chance(row: Mapping[str, Any]) -> None:
    if not has_learned(row["val_map"], row["val_chance_map"]):
        logger.warning(
            "the classifier has not learned: on the val split its mAP is %.3f, where chance is %.3f, so its class maps "
            "cannot say where a class is. The training loss says nothing, because masked tokens give answers away "
            "(train_bce %.3f, without masking %.3f). Train longer, raise train_classifier.masking_warmup_epochs, or "
            "start from pretrained weights.",
            row["val_map"],
            row["val_chance_map"],
            row["train_bce"],
            row["train_bce_unmasked"],
        )


def _group_of(name: str) -> str:
    """The learning-rate group of a parameter of the class-token transformer."""
    if name.endswith("log_alpha"):
        return "gates"
    return "head" if name.startswith(("head.", "patch_head.", "class_tokens", "register_token")) else "backbone"
