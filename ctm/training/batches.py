"""Batches of both trainings: each process's share of them, and as many processes that decode as there are cores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from ctm.data.loaders import ShardDataset, make_loader
from ctm.errors import ParamsError
from ctm.runtime.context import Context
from ctm.training.config import TrainingConfig
from ctm.training.device import decoding_workers

__all__ = ["make_loaders"]


def make_loaders(
    datasets: Mapping[str, ShardDataset], config: TrainingConfig, *, seed: int, context: Context, device: torch.device
) -> dict[str, DataLoader[dict[str, Any]]]:
    """A loader for each dataset, shuffled for ``train`` alone.

    Raises:
        ParamsError: the batch cannot be shared out among the processes.
    """
    launch = context.launch
    if config.batch_size % launch.world:
        raise ParamsError(
            f"batch_size {config.batch_size} is that of all processes together, and cannot be shared out among "
            f"{launch.world}: make it a multiple of their number, or start another number of processes."
        )
    return {
        name: make_loader(
            dataset,
            batch_size=config.batch_size,
            shuffle=name == "train",
            seed=seed,
            workers=decoding_workers(context, device),
            rank=launch.rank,
            world=launch.world,
        )
        for name, dataset in datasets.items()
    }
