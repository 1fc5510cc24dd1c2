"""The processes of one run, each with a device of its own: what they tell each other, and how they begin and end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from ctm.errors import ProcessError
from ctm.runtime.context import SINGLE, Launch

__all__ = ["ALONE", "Processes", "joined"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_WAIT = timedelta(hours=2)
"""For one that has more to do than the others, such as writing. One that is gone is noticed by its connections."""


@dataclass(frozen=True)
class Processes:
    """What the processes of a run tell each other; one process alone talks to nobody.

    Every process calls the same methods in the same order.

    Attributes:
        launch: which of how many this is.
    """

    launch: Launch = SINGLE

    @property
    def world(self) -> int:
        """How many there are."""
        return self.launch.world

    @property
    def rank(self) -> int:
        """The number of this one, from 0."""
        return self.launch.rank

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.launch.is_first

    def wait(self) -> None:
        """Goes on when all have come here."""
        self.largest(0)

    def largest(self, number: int) -> int:
        """The largest of their numbers."""
        if self.world == 1:
            return number
        numbers = torch.tensor([number])  # on the CPU: the device's queue is left alone
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return int(numbers.item())

    def by_first(self, compute: Callable[[], T]) -> T:
        """What the first process computes, in all of them; anything that can be pickled."""
        if self.world == 1:
            return compute()
        values = [compute() if self.is_first else None]
        distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return cast("T", values[0])

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their numbers, in each of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def mean(self, value: Tensor) -> Tensor:
        """The mean of the processes' tensors, which have the same shape; no gradient."""
        if self.world == 1:
            return value.detach()
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.world


ALONE = Processes()


@contextmanager
def joined(launch: Launch, device: torch.device) -> Iterator[Processes]:
    """Brings the processes that torchrun has started together, and lets none go on before all have ended well.

    Args:
        launch: which of how many this is.
        device: where tensors lie that are exchanged: NCCL on GPUs, gloo on the CPU.

    Raises:
        ProcessError: one of the others has ended, by an error of its own or killed.
    """
    if launch.world == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
        processes = Processes(launch)
        logger.info("%d processes", launch.world)
        yield processes
        processes.wait()
    except RuntimeError as error:
        if not _is_of_connection(error):
            raise
        raise ProcessError(
            f"process {launch.rank} of {launch.world} has lost another process of this run, which was killed or has "
            f"said why it ended ({str(error).strip().splitlines()[0]}). Nothing was written: run the command again."
        ) from error
    distributed.destroy_process_group()


def _is_of_connection(error: RuntimeError) -> bool:
    """Whether an error comes from the exchange with the others; gloo has no class for it."""
    return isinstance(error, distributed.DistError) or any(word in str(error).lower() for word in ("gloo", "nccl"))
