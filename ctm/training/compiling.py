"""torch.compile where it works, and training as the network is where it does not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from torch import nn

__all__ = ["as_it_was", "compile_network", "plain_if_not_compiled"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


def compile_network(model: nn.Module) -> None:
    """Marks the network's blocks, which are compiled once for all of them, or the whole of one that has none.

    Blocks are compiled whichever method of the network calls them. Names of parameters and modules stay as they are.
    """
    blocks = getattr(model, "blocks", None)
    for part in blocks if isinstance(blocks, nn.Sequential) else [model]:
        part.compile()


def plain_if_not_compiled(model: nn.Module, compute: Callable[[], T]) -> T:
    """What ``compute`` returns; where compiling fails, a warning, and once more with the network as it is.

    It fails at the first batch if at all, in the forward pass or in the backward pass, which is compiled later; the
    gradients of that try are forgotten.
    """
    try:
        return compute()
    except Exception as error:
        if not any(module._compiled_call_impl for module in model.modules()) or not _is_of_compiler(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        logger.warning("torch.compile does not work here (%s): the network is trained as it is", reason.strip())
        as_it_was(model)
        model.zero_grad()
        return compute()


def as_it_was(model: nn.Module) -> None:
    """Takes back what ``compile_network`` has done."""
    for module in model.modules():
        module._compiled_call_impl = None


def _is_of_compiler(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # takes a second or two, and most trainings do not compile

    return isinstance(error, TorchDynamoException)
