"""Batch normalisation over the images of all processes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctm.errors import ModelError
from ctm.training.processes import Processes

__all__ = ["share_statistics"]


def share_statistics(model: nn.Module, device: torch.device, processes: Processes) -> nn.Module:
    """The network, whose batch normalisation counts the images of all processes: the statistics of a share differ.

    Raises:
        ModelError: there is batch normalisation, and the processes share no GPUs, without which it cannot be done.
    """
    if processes.world == 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return model
    if device.type != "cuda":
        raise ModelError(
            "the segmenter has batch normalisation, whose statistics several processes share on GPUs only. Train it in "
            "one process, or choose one without: arch: vit."
        )
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm  # torch has not annotated it
    return cast("nn.Module", convert(model))
