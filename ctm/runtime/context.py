"""Where a stage runs: what may differ from machine to machine without changing what comes out."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # what keeps checkpoints is no part of what a stage computes: not of its fingerprint
    from ctm.runtime.checkpoint_store import CheckpointStore

__all__ = ["SINGLE", "WHOLE", "Context", "Device", "Launch", "Part", "Precision", "available_cores"]

Device = Literal["auto", "cpu", "cuda"]
"""Where a stage runs; auto takes the GPU where there is one."""

Precision = Literal["fp32", "bf16", "fp16", "fp64"]
"""Number format of the matrix products in training. With fp16 and bf16 weights and optimiser stay in fp32; fp64 is
double precision all over, slow, to compare two trainings to their last digits."""


@dataclass(frozen=True)
class Launch:
    """Which of how many processes of one run this is, as torchrun says; one process is the first and only.

    Attributes:
        rank: number of the process, from 0.
        world: how many there are.
        local_rank: its number on its machine.
        local_world: how many are on its machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @classmethod
    def from_environment(cls) -> Launch:
        """Reads what torchrun has set."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ.get(name, default)) for name, default in zip(names, (0, 1, 0, 1), strict=True)))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


SINGLE = Launch()


@dataclass(frozen=True)
class Part:
    """Which part of the samples a run handles: the ``number``-th of ``count``, counted from 1."""

    number: int
    count: int

    def of_process(self, launch: Launch) -> Part:
        """The share of this part that one of several processes handles."""
        return Part((self.number - 1) * launch.world + launch.rank + 1, self.count * launch.world)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Part(1, 1)


@dataclass(frozen=True)
class Context:
    """What a stage knows of its surroundings.

    Attributes:
        device: ``auto`` takes the GPU where there is one.
        workers: processes that decode images; 0 decodes in the stage's own; None: as many as suit the device.
        checkpoints: folder of this very run (stage, code, parameters and inputs), kept outside the stage's outputs and
            removed when the stage has ended well.
        resume: continue from ``checkpoints`` where it holds the state of an interrupted run.
        checkpoint_store: where checkpoints outlive the machine (``--checkpoints s3://...``); None: the folder is all.
        part: the share of the samples that this run handles; other than the whole for divisible stages only.
        launch: which of several processes this is; several for distributed stages only.
        skipped: ``path`` and ``reason`` of each file that could not be used and was left out, for the manifest.
        timings: seconds that the stage measured, for the manifest; they differ from run to run, so metrics have none.
    """

    device: Device
    workers: int | None
    checkpoints: Path
    resume: bool
    checkpoint_store: CheckpointStore | None = None
    part: Part = WHOLE
    launch: Launch = SINGLE
    skipped: list[dict[str, str]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


def available_cores() -> int:
    """How many processor cores this process may use: those it may run on, or the limit of its container."""
    return max(1, min(len(os.sched_getaffinity(0)), _core_limit()))


def _core_limit(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that Linux lets a container have, from time and period in ``cpu.max``; many if it says nothing."""
    try:
        time, period = file.read_text(encoding="ascii").split()
        return math.ceil(int(time) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return sys.maxsize
