"""Device and precision of a run, and random numbers that depend on the step alone."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from ctm.errors import ModelError
from ctm.runtime.context import SINGLE, Context, Device, Launch, Precision, available_cores
from ctm.training.processes import ALONE, Processes

__all__ = [
    "GATE_STREAM",
    "MASKING_STREAM",
    "PROCESS_STREAM",
    "at_least_fp32",
    "decoding_workers",
    "pick_device",
    "setup_fabric",
    "step_seed",
]

MASKING_STREAM, GATE_STREAM, PROCESS_STREAM = (0, 0), (1,), (2,)
"""First numbers of the streams of ``step_seed``: the masking of a batch of all processes together, the gates, which all
processes share, and what each draws for itself, such as dropout."""

MOST_WORKERS = 8
"""Decoding processes beside one GPU: more than these wait for it."""

FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed", "fp64": "64-true"}


def pick_device(device: Device, launch: Launch = SINGLE) -> torch.device:
    """The torch device for a process of a stage.

    Raises:
        ModelError: a GPU is asked for and there is none, or fewer than processes.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() and device != "cpu" else 0
    if device == "cuda" and not found:
        raise ModelError("--device cuda: no CUDA device can be used here. Use --device cpu, or auto.")
    if found and launch.local_world > found:
        raise ModelError(
            f"{launch.local_world} processes on this machine, and {found} GPUs: start as many processes as GPUs "
            "(torchrun --nproc-per-node, CTM_NPROC in a container), or use --device cpu."
        )
    return torch.device("cuda", launch.local_rank) if found else torch.device("cpu")


def decoding_workers(context: Context, device: torch.device) -> int:
    """How many processes decode images for this one, where the caller of the stage has not said it.

    On the CPU none: the network itself has use for every core. Beside a GPU this process's share of the cores, without
    its own and at most 8.
    """
    if context.workers is not None or device.type == "cpu":
        return context.workers or 0
    return max(1, min(MOST_WORKERS, available_cores() // context.launch.local_world - 1))


def setup_fabric(device: torch.device, precision: Precision, processes: Processes = ALONE) -> Fabric:
    """Lightning Fabric on this process's device; with several processes, gradients are their mean.

    Raises:
        ModelError: the device cannot train in the precision.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ModelError("precision: fp16 trains on a GPU only. Use fp32 or bf16 on the CPU.")
    launch = processes.launch
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it repeats the precision that the user has set
    several = DDPStrategy(find_unused_parameters=True) if launch.world > 1 else "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric advises on hardware that the user has not chosen
        fabric = Fabric(
            accelerator=device.type,
            devices=launch.local_world if launch.world > 1 else [device.index or 0] if device.type == "cuda" else 1,
            num_nodes=launch.world // launch.local_world,
            precision=FABRIC_PRECISION[precision],  # type: ignore[arg-type]  # the type of these words is private
            strategy=several,
        )
        fabric.launch()
    # Said of networks that do use all their parameters; some of segmentation-models-pytorch's do not.
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    return fabric


def at_least_fp32(logits: Tensor) -> Tensor:
    """The logits of half precision in single precision, in which losses and scores are computed; others as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def step_seed(seed: int, *stream: int) -> int:
    """A seed for one step: depends on the run's seed and the numbers of ``stream`` alone, so that a resumed run draws
    what an undisturbed one would have drawn.
    """
    return int(np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)[0] >> 1)
