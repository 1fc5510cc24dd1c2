"""Training of the class-token transformer with head gates on image-level labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset, make_loader
from ctm.data.shards import ShardFolder
from ctm.errors import ModelError
from ctm.evaluation.labels import LabelScore
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.gates import HardConcreteGate
from ctm.runtime.context import Context, Precision
from ctm.training.checkpoints import Checkpoints
from ctm.training.config import TrainClassifierConfig
from ctm.training.device import GATE_STREAM, setup_fabric, step_seed
from ctm.training.loop import Batch, Progress, fit
from ctm.training.optimiser import build_optimiser

__all__ = ["ClassifierTask", "train_classifier"]


class ClassifierTask:
    """Binary cross-entropy of every class (mean over images and classes) plus lambda times the open gates.

    Hanna & Borth, ICCV 2025, section 3; method.md section 2 gives the exact terms.
    """

    monitor = "map"

    def __init__(self, config: TrainClassifierConfig, classes: ClassTable, *, seed: int) -> None:
        self._config = config
        self._classes = classes
        self._seed = seed

    def losses(self, model: nn.Module, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The loss, and its parts: ``bce`` on masked class tokens, ``gates`` the expected number of open heads."""
        labels = batch["labels"]
        gates = torch.Generator().manual_seed(
            step_seed(self._seed, GATE_STREAM, progress.step)
        )  # the same on every rank
        logits = model(batch["image"], labels, masking_ratio=self._config.masking_ratio, gate_generator=gates)
        bce = binary_cross_entropy_with_logits(logits.float(), labels.float())
        penalty: Tensor = model.gate_penalty()  # type: ignore[operator]
        weight = self._config.pruning_weight * progress.ramp(self._config.pruning_warmup_epochs)
        return {"loss": bce + weight * penalty, "bce": bce, "gates": penalty}

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float | None]:
        """Unmasked loss, mAP beside chance, multi-label accuracy, and the number of open heads."""
        score = LabelScore(self._classes)
        losses = []
        for batch in batches:
            logits = model(batch["image"]).float()
            losses.append(binary_cross_entropy_with_logits(logits, batch["labels"].float(), reduction="none").flatten())
            score.update(logits, batch["labels"])
        scores = score.compute()
        gates: list[HardConcreteGate] = model.gates  # type: ignore[assignment]
        return {
            "loss": float(torch.cat(losses).mean()),
            "map": scores["map"],
            "accuracy": scores["accuracy"],
            "chance_map": scores["chance_map"],
            "open_heads": sum(int(gate.open_heads().sum()) for gate in gates),
        }


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
    inputs = InputSpec(model.size, data.channels, data.scale, data.mean, data.std)
    fabric = setup_fabric(context.device, precision)
    torch.manual_seed(seed)
    network = ClassTokenViT(model, gates, num_classes=len(data.classes.tokens), in_channels=data.channels)
    optimiser = build_optimiser(
        network,
        training,
        rates={"backbone": training.lr, "head": training.head_lr, "gates": training.gate_lr},
        group_of=_group_of,
        no_decay=network.no_weight_decay(),
    )
    train = ShardDataset(data.split("train"), inputs, augment=training.augment, seed=seed)
    val = ShardDataset(data.split("val"), inputs)
    loaders = {
        "train": make_loader(train, batch_size=training.batch_size, shuffle=True, seed=seed, workers=context.workers),
        "val": make_loader(val, batch_size=training.batch_size, shuffle=False, seed=seed, workers=context.workers),
    }
    history = fit(
        ClassifierTask(training, data.classes, seed=seed),
        network,
        optimiser,
        fabric=fabric,
        loaders=loaders,
        config=training,
        seed=seed,
        checkpoints=Checkpoints(context.checkpoints, resume=context.resume, store=context.checkpoint_store),
    )
    network.cpu()
    if not any(bool(gate.open_heads().any()) for gate in network.gates):
        raise ModelError(
            "every head gate has closed, so no head is left that could see the image. Lower "
            "train_classifier.pruning_weight or gate_lr, or lengthen pruning_warmup_epochs."
        )
    return network, inputs, history


def _group_of(name: str) -> str:
    """The learning-rate group of a parameter of the class-token transformer."""
    if name.endswith("log_alpha"):
        return "gates"
    return "head" if name.startswith(("head.", "class_tokens", "register_token")) else "backbone"
