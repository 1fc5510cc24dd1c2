"""The one training loop, on Lightning Fabric."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ctm.errors import ArtifactError, ModelError
from ctm.runtime.progress import track
from ctm.training.checkpoints import Checkpoints
from ctm.training.config import TrainingConfig
from ctm.training.device import STEP_STREAM, step_seed
from ctm.training.optimiser import cosine_with_warmup

__all__ = ["Batch", "Progress", "Task", "fit"]

logger = logging.getLogger(__name__)

Batch = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a training is: the optimiser steps done, and those of one epoch."""

    step: int
    steps_per_epoch: int

    def ramp(self, epochs: float) -> float:
        """Rises linearly from 0 to 1 over the first ``epochs`` epochs."""
        return min(1.0, self.step / (epochs * self.steps_per_epoch)) if epochs else 1.0


class Task(Protocol):
    """What is trained: how a batch becomes a loss, and what the val split says of it."""

    monitor: str
    """The value of ``validate`` by which epochs are compared; higher is better."""

    def losses(self, model: nn.Module, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The scalar ``loss`` to be minimised, and further scalars to be logged."""

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float | None]:
        """Figures of the val split; the model is in eval mode and no gradient is kept."""


def fit(
    task: Task,
    model: nn.Module,
    optimiser: Optimizer,
    *,
    fabric: Fabric,
    loaders: Mapping[str, DataLoader[Batch]],
    config: TrainingConfig,
    seed: int,
    checkpoints: Checkpoints,
    methods: Sequence[str] = (),
    before_step: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains ``model`` in place and leaves it, in eval mode, as ``config.keep`` asks.

    Args:
        task: loss and validation.
        model: trained in place.
        optimiser: of the model's parameters; its rates are the peak rates of the schedule.
        fabric: device and precision.
        loaders: ``train``, and ``val`` if there is one; a train loader's sampler has ``set_epoch``.
        config: epochs, accumulation, warm-up, clipping, and which epoch is kept.
        seed: of everything random in the steps.
        checkpoints: where the state of an interrupted run is looked for and written after each epoch.
        methods: what the task calls of the model besides ``forward``.
        before_step: called with the number of the optimiser step, from 0, when its gradients are complete and not yet
            clipped. What it keeps must be in the model: nothing else is checkpointed.

    Returns:
        One row an epoch: ``epoch``, ``train_<name>`` means of the task's scalars, ``val_<name>``, ``lr``.

    Raises:
        ModelError: the loss is no finite number any more.
    """
    steps_per_epoch = math.ceil(len(loaders["train"]) / config.accumulate)
    schedule = cosine_with_warmup(
        optimiser,  # type: ignore[arg-type]
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        total_steps=config.epochs * steps_per_epoch,
    )
    wrapped, wrapped_optimiser = fabric.setup(model, optimiser)
    for method in methods:
        wrapped.mark_forward_method(method)
    state: dict[str, Any] = {
        "model": wrapped,
        "optimiser": wrapped_optimiser,
        "schedule": schedule,
        "history": [],
        "best": -math.inf,
    }
    if checkpoints.resume and checkpoints.load(fabric, "last", state):
        logger.info("resuming after epoch %d", len(state["history"]))
    while len(state["history"]) < config.epochs:
        epoch = len(state["history"])
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            **_train_epoch(task, state, fabric, loaders["train"], config, seed, steps_per_epoch, before_step),
        }
        row |= _validate(task, wrapped, fabric, loaders.get("val"))
        row["lr"] = schedule.get_last_lr()[0]
        state["history"].append(row)
        logger.info("%s", _line(row, config.epochs))
        score = row.get(f"val_{task.monitor}")
        if config.keep == "best" and score is not None and score > state["best"]:
            state["best"] = score
            checkpoints.save(fabric, "best", {"model": wrapped})
        checkpoints.save(fabric, "last", state)
    if config.keep == "best" and state["best"] > -math.inf:
        if not checkpoints.load(fabric, "best", {"model": wrapped}):
            raise ArtifactError(f"{checkpoints.folder}: the best state is gone: start anew with --resume never.")
    elif config.keep == "best":
        logger.warning("keep is best, but no epoch has a val_%s: the last epoch is kept", task.monitor)
    model.eval()
    return list(state["history"])


def _train_epoch(
    task: Task,
    state: dict[str, Any],
    fabric: Fabric,
    loader: DataLoader[Batch],
    config: TrainingConfig,
    seed: int,
    steps_per_epoch: int,
    before_step: Callable[[int], None] | None,
) -> dict[str, float]:
    """One pass over the train split; the mean of each of the task's scalars."""
    model, optimiser, schedule = state["model"], state["optimiser"], state["schedule"]
    epoch = len(state["history"])
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    model.train()
    sums: dict[str, Tensor] = {}
    batches = len(loader)
    for number, batch in enumerate(track(loader, description=f"epoch {epoch + 1}/{config.epochs}", unit="batch")):
        step = epoch * steps_per_epoch + number // config.accumulate
        torch.manual_seed(step_seed(seed, STEP_STREAM, fabric.global_rank, epoch, number))  # dropout, masking
        group = min(config.accumulate, batches - number // config.accumulate * config.accumulate)
        stepping = (number + 1) % config.accumulate == 0 or number + 1 == batches
        with fabric.no_backward_sync(model, enabled=not stepping):
            # On a single device Fabric leaves methods other than forward without the precision's context.
            with fabric.autocast():
                losses = task.losses(model, _to_device(batch, fabric), Progress(step, steps_per_epoch))
            fabric.backward(losses["loss"] / group)
        if stepping:
            if before_step is not None:
                before_step(step)
            if config.clip_grad_norm is not None:
                fabric.clip_gradients(model, optimiser, max_norm=config.clip_grad_norm, error_if_nonfinite=False)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=fabric.device)) + value.detach()
    means = {f"train_{name}": float(value) / batches for name, value in sums.items()}
    if not math.isfinite(means["train_loss"]):
        raise ModelError(
            f"the training loss of epoch {epoch + 1} is {means['train_loss']}: lower the learning rates, lengthen "
            f"warmup_epochs, or train with precision: fp32."
        )
    return means


def _validate(task: Task, model: nn.Module, fabric: Fabric, loader: DataLoader[Batch] | None) -> dict[str, Any]:
    if loader is None:
        return {}
    model.eval()
    with torch.inference_mode(), fabric.autocast():
        batches = (_to_device(batch, fabric) for batch in track(loader, description="val", unit="batch"))
        return {f"val_{name}": value for name, value in task.validate(model, batches).items()}


def _to_device(batch: Batch, fabric: Fabric) -> Batch:
    return {name: fabric.to_device(value) for name, value in batch.items()}


def _line(row: Mapping[str, Any], epochs: int) -> str:
    values = [f"{name} {value:.4g}" for name, value in row.items() if name not in ("epoch", "lr") and value is not None]
    return f"  epoch {row['epoch']}/{epochs}: {', '.join(values)}"
