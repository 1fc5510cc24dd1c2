"""The one training loop, on Lightning Fabric."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from ctm.errors import ModelError
from ctm.runtime.preemption import Preempted, Request, preemption_deferred
from ctm.runtime.progress import track
from ctm.training.checkpoints import Checkpoints, Position
from ctm.training.compiling import as_it_was, compile_network, plain_if_not_compiled
from ctm.training.config import TrainingConfig
from ctm.training.device import PROCESS_STREAM, step_seed
from ctm.training.optimiser import cosine_with_warmup
from ctm.training.processes import ALONE, Processes

__all__ = ["Batch", "Progress", "Task", "fit"]

logger = logging.getLogger(__name__)

Batch = dict[str, Any]

SECONDS_BETWEEN_STATES = 600.0
"""A state is saved at the end of every epoch, and in a longer one as often as this."""

GO_ON, SAVE, END = range(3)
"""What a process wants after a step; of several, all do what the largest of their numbers says."""


@dataclass(frozen=True)
class Progress:
    """How far a training is: the optimiser steps done, those of one epoch; the epoch, and its batches done."""

    step: int
    steps_per_epoch: int
    epoch: int = 0
    batch: int = 0

    def ramp(self, epochs: float) -> float:
        """Rises linearly from 0 to 1 over the first ``epochs`` epochs."""
        return min(1.0, self.step / (epochs * self.steps_per_epoch)) if epochs else 1.0


class Task(Protocol):
    """What is trained: how a batch becomes a loss, and what the val split says of it."""

    monitor: str
    """The value of ``validate`` by which epochs are compared; higher is better."""

    methods: tuple[str, ...]
    """What the task calls of the model besides ``forward``."""

    def losses(self, model: nn.Module, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The scalar ``loss`` to be minimised, and further scalars to be logged.

        Of several processes each has its share of a batch, and what is minimised and logged is the mean of theirs.
        """

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float | None]:
        """Figures of the val split; the model is in eval mode and no gradient is kept.

        Of several processes each has its share of the batches, and all return the figures of the whole.
        """


def fit(
    task: Task,
    model: nn.Module,
    optimiser: Optimizer,
    *,
    fabric: Fabric,
    loaders: Mapping[str, DataLoader[Batch]],
    config: TrainingConfig,
    seed: int,
    checkpoints: Checkpoints | None,
    processes: Processes = ALONE,
    before_step: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains ``model`` in place and leaves it, in eval mode, as ``config.keep`` asks.

    What is random in a step depends on the seed and the step's number alone, so that a training that was interrupted
    anywhere ends in the very same weights as one that was not.

    Args:
        task: loss and validation.
        model: trained in place.
        optimiser: of the model's parameters; its rates are the peak rates of the schedule.
        fabric: device and precision.
        loaders: ``train``, and ``val`` if there is one; a train loader's sampler has ``set_epoch``.
        config: epochs, accumulation, warm-up, clipping, and which epoch is kept.
        seed: of everything random in the steps.
        checkpoints: where the state of an interrupted run is looked for, and written after each epoch, every ten
            minutes, and when the process is asked to end; None in all processes but the first.
        processes: those that train together.
        before_step: called with the number of the optimiser step, from 0, when its gradients are complete and not yet
            clipped. What it keeps must be in the model: nothing else is checkpointed.

    Returns:
        One row an epoch: ``epoch``, ``train_<name>`` means of the task's scalars, ``val_<name>``, ``lr``.

    Raises:
        ModelError: the loss is no finite number any more.
        Preempted: the process was asked to end; its state is saved.
    """
    with preemption_deferred() as request:
        training = _Training(
            task, model, optimiser, fabric, loaders, config, seed, checkpoints, processes, before_step, request
        )
        training.resume()
        while len(training.history) < config.epochs:
            training.run_epoch()
    training.take_kept_weights()
    as_it_was(model.eval())
    return list(training.history)


@dataclass
class _Training:
    """A training under way: what ``fit`` was given, and how far it is."""

    task: Task
    model: nn.Module
    optimiser: Optimizer
    fabric: Fabric
    loaders: Mapping[str, DataLoader[Batch]]
    config: TrainingConfig
    seed: int
    checkpoints: Checkpoints | None
    processes: Processes
    before_step: Callable[[int], None] | None
    request: Request

    history: list[dict[str, Any]] = field(default_factory=list)
    batch: int = 0
    """Batches done of the epoch after the last of the history."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Of the task's scalars over these batches; when a state is saved, the mean of the processes' sums."""
    best: dict[str, Any] = field(default_factory=lambda: {"score": -math.inf, "weights": {}})
    saved: float = field(default_factory=time.monotonic)
    """When the last state was saved."""

    def __post_init__(self) -> None:
        self.batches = len(self.loaders["train"])
        self.steps_per_epoch = math.ceil(self.batches / self.config.accumulate)
        self.schedule: LambdaLR = cosine_with_warmup(
            self.optimiser,
            warmup_steps=round(self.config.warmup_epochs * self.steps_per_epoch),
            total_steps=self.config.epochs * self.steps_per_epoch,
        )
        if self.config.compile:
            compile_network(self.model)
        self.wrapped, self.wrapped_optimiser = self.fabric.setup(self.model, self.optimiser)
        for method in self.task.methods:
            self.wrapped.mark_forward_method(method)

    # what is saved

    def resume(self) -> None:
        """Takes over the state of an interrupted run, which the first process reads and tells the others."""
        state = self.processes.by_first(lambda: None if self.checkpoints is None else self.checkpoints.load())
        if state is None:
            return
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self.history, self.batch, self.best = state["history"], state["batch"], state["best"]
        self.sums = {name: value.to(self.fabric.device) for name, value in state["sums"].items()}
        within = f" and {self.batch} of {self.batches} batches" if self.batch else ""
        logger.info("resuming after epoch %d%s", len(self.history), within)

    def save(self) -> None:
        """Writes the state, in the first process alone."""
        if self.checkpoints is not None:
            state = {name: part.state_dict() for name, part in self._stateful().items()}
            state |= {"history": self.history, "batch": self.batch, "sums": self.sums, "best": self.best}
            self.checkpoints.save(Position(len(self.history), self.batch), state)
        self.saved = time.monotonic()

    def _stateful(self) -> dict[str, Any]:
        """What a state holds the ``state_dict`` of; for fp16 the loss scale, too."""
        return {
            "model": self.model,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
            "precision": self.fabric.strategy.precision,
        }

    # the epochs

    def run_epoch(self) -> None:
        """Trains and validates, from wherever the epoch is, writes its row and saves the state."""
        self._train()
        self._share_sums()
        self._save_or_end(GO_ON)
        row = {
            "epoch": len(self.history) + 1,
            **self._means(),
            **self._validate(),
            "lr": self.schedule.get_last_lr()[0],
        }
        self.history.append(row)
        self.batch, self.sums = 0, {}
        logger.info("%s", _line(row, self.config.epochs))
        score = row.get(f"val_{self.task.monitor}")
        if self.config.keep == "best" and score is not None and score > self.best["score"]:
            weights = {name: value.cpu().clone() for name, value in self.model.state_dict().items()}
            self.best = {"score": score, "weights": weights}
        self._save_or_end(SAVE)

    def take_kept_weights(self) -> None:
        """Gives the model the weights of the best epoch, where these are asked for."""
        if self.best["weights"]:
            self.model.load_state_dict(self.best["weights"])
        elif self.config.keep == "best":
            logger.warning("keep is best, but no epoch has a val_%s: the last epoch is kept", self.task.monitor)

    def _train(self) -> None:
        """The rest of one pass over the train split."""
        epoch, loader = len(self.history), self.loaders["train"]
        loader.sampler.set_epoch(epoch, start=self.batch * (loader.batch_size or 1))  # type: ignore[attr-defined]  # our own
        self.wrapped.train()
        about = f"epoch {epoch + 1}/{self.config.epochs}"
        for batch in track(loader, description=about, unit="batch", total=self.batches, start=self.batch):
            stepped = self._train_batch(batch, epoch, self.batch)
            self.batch += 1
            if stepped and self.batch < self.batches:
                late = time.monotonic() - self.saved > SECONDS_BETWEEN_STATES
                self._save_or_end(SAVE if late else GO_ON)

    def _train_batch(self, batch: Batch, epoch: int, number: int) -> bool:
        """Forward and backward pass; whether the optimiser made a step after it."""
        accumulate = self.config.accumulate
        group = min(accumulate, self.batches - number // accumulate * accumulate)
        stepping = (number + 1) % accumulate == 0 or number + 1 == self.batches
        step = epoch * self.steps_per_epoch + number // accumulate
        progress = Progress(step, self.steps_per_epoch, epoch, number)
        seed = step_seed(self.seed, *PROCESS_STREAM, self.processes.rank, epoch, number)
        with self.fabric.no_backward_sync(self.wrapped, enabled=not stepping):
            losses = plain_if_not_compiled(self.model, lambda: self._backward(batch, progress, seed, group))
        if stepping:
            self._step(step)
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()
        return stepping

    def _backward(self, batch: Batch, progress: Progress, seed: int, group: int) -> dict[str, Tensor]:
        """Losses of a batch, whose gradients are added to those of its group."""
        torch.manual_seed(seed)
        # On a single device Fabric leaves methods other than forward without the precision's context.
        with self.fabric.autocast():
            losses = self.task.losses(self.wrapped, self._to_device(batch), progress)
        self.fabric.backward(losses["loss"] / group)
        return losses

    def _step(self, step: int) -> None:
        if self.before_step is not None:
            self.before_step(step)
        if self.config.clip_grad_norm is not None:
            self.fabric.clip_gradients(
                self.wrapped, self.wrapped_optimiser, max_norm=self.config.clip_grad_norm, error_if_nonfinite=False
            )
        self.wrapped_optimiser.step()
        self.wrapped_optimiser.zero_grad()
        self.schedule.step()

    def _save_or_end(self, wish: int) -> None:
        """Saves the state if one of the processes wishes it, and ends if one was asked to end, which all then do.

        Args:
            wish: of this process, GO_ON or SAVE; END in its place if it was asked to end.
        """
        agreed = self.processes.largest(END if self.request.made else wish)
        if agreed != GO_ON:
            self._share_sums()
            self.save()
        if agreed == END:
            self.processes.wait()  # torchrun gives those that are left little time once one has gone
            raise Preempted

    def _share_sums(self) -> None:
        self.sums = {name: self.processes.mean(value) for name, value in self.sums.items()}

    def _means(self) -> dict[str, float]:
        """Means of the task's scalars over the batches of the epoch."""
        means = {f"train_{name}": float(value) / self.batches for name, value in self.sums.items()}
        if not math.isfinite(means["train_loss"]):
            raise ModelError(
                f"the training loss of epoch {len(self.history) + 1} is {means['train_loss']}: lower the learning "
                "rates, lengthen warmup_epochs, or train with precision: fp32."
            )
        return means

    def _validate(self) -> dict[str, Any]:
        """Figures of the val split, by the network itself: what wraps it would wait for the others at each batch."""
        loader = self.loaders.get("val")
        if loader is None:
            return {}
        self.model.eval()
        with torch.inference_mode(), self.fabric.autocast():
            figures = plain_if_not_compiled(
                self.model, lambda: self.task.validate(self.model, self._val_batches(loader))
            )
        return {f"val_{name}": value for name, value in figures.items()}

    def _val_batches(self, loader: DataLoader[Batch]) -> Iterator[Batch]:
        """The val split's batches. Asked to end, the state is saved at once; several processes end after them together,
        since each has its own number of batches.
        """
        saved = False
        for batch in track(loader, description="val", unit="batch"):
            if self.request.made and not saved:
                self.save()
                saved = True
                if self.processes.world == 1:
                    raise Preempted
            yield self._to_device(batch)

    def _to_device(self, batch: Batch) -> Batch:
        precision = self.fabric.strategy.precision
        moved = {name: value.to(self.fabric.device, non_blocking=True) for name, value in batch.items()}
        return {name: precision.convert_input(value) for name, value in moved.items()}


def _line(row: Mapping[str, Any], epochs: int) -> str:
    values = [f"{name} {value:.4g}" for name, value in row.items() if name not in ("epoch", "lr") and value is not None]
    return f"  epoch {row['epoch']}/{epochs}: {', '.join(values)}"
