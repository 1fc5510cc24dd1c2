"""Rows of the table: a training step of the classifier, as ctm does it and as the paper's formulation reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from bench.image_shards import class_table
from bench.models import close_in, make_model, random_images, two_or_three
from bench.reference import drop_tokens_by_loops, encode_keeping_matrices
from bench.row import Row
from bench.sizes import Setting
from ctm.models.class_token_vit import ClassTokenViT
from ctm.training.classifier import ClassifierTask
from ctm.training.compiling import compile_network
from ctm.training.config import TrainClassifierConfig
from ctm.training.device import GATE_STREAM, MASKING_STREAM, setup_fabric, step_seed
from ctm.training.loop import Batch, Progress
from ctm.training.optimiser import build_optimiser, fuses

__all__ = ["PlainSteps", "Steps", "training_rows"]

CONFIG = TrainClassifierConfig(epochs=100)
"""Masking 0.5, lambda 0.01, gradients clipped at norm 1: the defaults, which are the paper's where it has them."""

FIRST_STEP, STEPS_PER_EPOCH = 1000, 100
"""After all warm-ups: every term of the loss has its full weight."""

SEED = 0


def training_rows(setting: Setting) -> Iterator[Row]:
    """A step: losses, gradients, clipping, AdamW. Both sides start from the same weights and make the same draws."""
    for compiled in (False, True) if setting.compiled else (False,):
        yield Row(
            f"training step{', torch.compile' if compiled else ''}: N×N kept ÷ ours",
            PlainSteps(setting),
            Steps(setting, compiled=compiled),
            close_in(setting),
            memory=True,
            repeats=None if setting.device.type == "cuda" else 3,
            device=setting.device,
        )


class Steps:
    """Training steps of ctm on one batch: what its loop does between two batches. A call is a step, and its loss."""

    def __init__(self, setting: Setting, *, compiled: bool = False) -> None:
        self._fabric = setup_fabric(setting.device, setting.precision)
        self._task = ClassifierTask(CONFIG, class_table(setting.sizes), seed=SEED)
        model = make_model(setting.sizes).train()
        if compiled:
            compile_network(model)
        self._model, self._optimiser = self._fabric.setup(model, optimiser_of(model, setting))
        for method in self._task.methods:
            self._model.mark_forward_method(method)
        self._batch, self._step = training_batch(setting), FIRST_STEP

    def __call__(self) -> Tensor:
        """One step; its loss before the update."""
        progress = Progress(self._step, STEPS_PER_EPOCH, batch=self._step)
        with self._fabric.autocast():
            loss = self._task.losses(self._model, self._batch, progress)["loss"]
        self._fabric.backward(loss)
        clip = cast("float", CONFIG.clip_grad_norm)
        self._fabric.clip_gradients(self._model, self._optimiser, max_norm=clip, error_if_nonfinite=False)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._step += 1
        return loss.detach()


class PlainSteps:
    """The same steps in fp32, written plainly: every attention matrix kept, masking in loops, AdamW by tensor."""

    def __init__(self, setting: Setting) -> None:
        self._model = make_model(setting.sizes).train().to(setting.device)
        groups = optimiser_of(self._model, setting).param_groups
        names = ("params", "lr", "weight_decay", "betas")
        self._optimiser = AdamW([{name: group[name] for name in names} for group in groups], foreach=False)
        self._batch, self._step = training_batch(setting), FIRST_STEP

    def __call__(self) -> Tensor:
        """One step; its loss before the update."""
        loss = self._loss()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(self._model.parameters(), cast("float", CONFIG.clip_grad_norm))
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._step += 1
        return loss.detach()

    def _loss(self) -> Tensor:
        model, labels = self._model, self._batch["labels"]
        gates = torch.Generator().manual_seed(step_seed(SEED, *GATE_STREAM, self._step))
        masking = torch.Generator().manual_seed(step_seed(SEED, *MASKING_STREAM, 0, self._step))
        tokens, _matrices = encode_keeping_matrices(model, self._batch["image"], gates)
        classes = model.norm(tokens[:, : model.num_classes])
        draws = torch.rand(labels.shape, generator=masking).to(labels.device)  # one by one, they would be others
        masked = drop_tokens_by_loops(classes, labels, draws < CONFIG.masking_ratio)
        bce = binary_cross_entropy_with_logits(model.head(masked.flatten(1)), labels.float())
        return bce + CONFIG.pruning_weight * model.gate_penalty()


def optimiser_of(model: ClassTokenViT, setting: Setting) -> AdamW:
    """The optimiser as ctm builds it, with one rate."""
    return build_optimiser(
        model,
        CONFIG,
        rates={"all": CONFIG.lr},
        group_of=lambda _: "all",
        fused=fuses(setting.device, setting.precision),
    )


def training_batch(setting: Setting) -> Batch:
    """Images, each with two or three classes."""
    return {
        "image": random_images(setting),
        "labels": two_or_three(setting.sizes, setting.batch).to(setting.device),
    }
