"""Where a stage runs: what may differ from machine to machine without changing what comes out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ctm.runtime.checkpoint_store import CheckpointStore

__all__ = ["WHOLE", "Context", "Device", "Part", "Precision", "available_cores", "processes"]

Device = Literal["auto", "cpu", "cuda"]

Precision = Literal["fp32", "bf16", "fp16"]
"""Number format of the matrix products in training; weights and optimiser stay in fp32."""


@dataclass(frozen=True)
class Part:
    """Which part of the samples a run handles: the ``number``-th of ``count``, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Part(1, 1)


@dataclass(frozen=True)
class Context:
    """What a stage knows of its surroundings.

    Attributes:
        device: ``auto`` takes the GPU where there is one.
        workers: processes that decode images; 0 decodes in the stage's own.
        checkpoints: folder of this very run (stage, code, parameters and inputs), kept outside the stage's outputs and
            removed when the stage has ended well.
        resume: continue from ``checkpoints`` where it holds the state of an interrupted run.
        checkpoint_store: where checkpoints outlive the machine (``--checkpoints s3://...``); None: the folder is all.
        part: the share of the samples that this run handles; other than the whole for divisible stages only.
        skipped: ``path`` and ``reason`` of each file that could not be used and was left out, for the manifest.
        timings: seconds that the stage measured, for the manifest; they differ from run to run, so metrics have none.
    """

    device: Device
    workers: int
    checkpoints: Path
    resume: bool
    checkpoint_store: CheckpointStore | None = None
    part: Part = WHOLE
    skipped: list[dict[str, str]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


def available_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def processes() -> int:
    """How many processes torchrun has started for this run; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))
