"""Where and with what a training runs: the same for both tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.utils.data import DataLoader

from ctm.data.loaders import ShardDataset, make_loader
from ctm.errors import ParamsError
from ctm.runtime.context import Context, Precision
from ctm.training.checkpoints import open_round
from ctm.training.config import TrainingConfig
from ctm.training.device import decoding_workers, pick_device, setup_fabric
from ctm.training.loop import Batch, Task, fit
from ctm.training.optimiser import build_optimiser, fuses
from ctm.training.processes import Processes, joined

__all__ = ["Session"]

Loaders = dict[str, DataLoader[Batch]]


@dataclass(frozen=True)
class Session:
    """One or several trainings on the same device, by the same processes, with the same parameters."""

    config: TrainingConfig
    seed: int
    precision: Precision
    context: Context
    device: torch.device
    processes: Processes

    @classmethod
    @contextmanager
    def opened(cls, config: TrainingConfig, *, seed: int, precision: Precision, context: Context) -> Iterator[Self]:
        """Picks the device and brings the processes together; see ``joined``."""
        device = pick_device(context.device, context.launch)
        with joined(context.launch, device) as processes:
            yield cls(config, seed, precision, context, device, processes)

    def loaders(self, datasets: Mapping[str, ShardDataset]) -> Loaders:
        """A loader for each dataset, of this process's share of its batches, shuffled for ``train`` alone.

        Raises:
            ParamsError: the batch cannot be shared out among the processes.
        """
        launch = self.context.launch
        if self.config.batch_size % launch.world:
            raise ParamsError(
                f"batch_size {self.config.batch_size} is that of all processes together, and cannot be shared out "
                f"among {launch.world}: make it a multiple of their number, or start another number of processes."
            )
        return {
            name: make_loader(
                dataset,
                batch_size=self.config.batch_size,
                shuffle=name == "train",
                seed=self.seed,
                workers=decoding_workers(self.context, self.device),
                rank=launch.rank,
                world=launch.world,
            )
            for name, dataset in datasets.items()
        }

    def fit(
        self,
        task: Task,
        network: nn.Module,
        loaders: Loaders,
        *,
        rates: Mapping[str, float],
        group_of: Callable[[str], str],
        number: int = 0,
        before_step: Callable[[int], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Trains a network in place, in single precision when it is done; see ``ctm.training.loop.fit``.

        Args:
            task: loss and validation.
            network: what is trained.
            loaders: those of ``loaders``.
            rates: peak learning rate of each group of parameters.
            group_of: gives the group of a parameter's name.
            number: which of several trainings this is, from 0; their checkpoints share a folder.
            before_step: see ``fit``.
        """
        fused = fuses(self.device, self.precision)
        history = fit(
            task,
            network,
            build_optimiser(network, self.config, rates=rates, group_of=group_of, fused=fused),
            fabric=setup_fabric(self.device, self.precision, self.processes),
            loaders=loaders,
            config=self.config,
            seed=self.seed,
            checkpoints=open_round(self.context, number),
            processes=self.processes,
            before_step=before_step,
        )
        network.float()  # what it learned in double precision it applies in single
        return history
