"""Device and precision of a run, and random numbers that depend on the step alone."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from lightning_fabric import Fabric

from ctm.errors import ModelError
from ctm.runtime.context import Device, Precision

__all__ = ["GATE_STREAM", "STEP_STREAM", "pick_device", "setup_fabric", "step_seed"]

STEP_STREAM, GATE_STREAM = 0, 1
"""First numbers of the streams of ``step_seed``: what each rank draws for itself, and what all ranks share."""

FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def pick_device(device: Device) -> torch.device:
    """The torch device for a stage without training.

    Raises:
        ModelError: a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda: no CUDA device can be used here. Use --device cpu, or auto.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def setup_fabric(device: Device, precision: Precision) -> Fabric:
    """Lightning Fabric on one device.

    Raises:
        ModelError: the device is missing, or cannot train in the precision.
    """
    kind = pick_device(device).type
    if precision == "fp16" and kind == "cpu":
        raise ModelError("precision: fp16 trains on a GPU only. Use fp32 or bf16 on the CPU.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric advises on hardware that the user has not chosen
        return Fabric(accelerator=kind, devices=1, precision=FABRIC_PRECISION[precision])  # type: ignore[arg-type]


def step_seed(seed: int, *stream: int) -> int:
    """A seed for one step: depends on the run's seed and the numbers of ``stream`` alone, so that a resumed run draws
    what an undisturbed one would have drawn.
    """
    return int(np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)[0] >> 1)
