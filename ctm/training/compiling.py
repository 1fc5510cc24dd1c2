"""torch.compile where it works, and training as the network is where it does not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import nn

__all__ = ["compile_network", "plain_if_not_compiled"]

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
    """What ``compute`` returns; where compiling fails, a warning, and once more with the network as it is."""
    try:
        return compute()
    except Exception as error:
        compiled = [module for module in model.modules() if module._compiled_call_impl is not None]
        if not compiled or not _is_of_compiler(error):
            raise
        _undo(compiled, error)
        return compute()


def _is_of_compiler(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # takes a second or two, and most trainings do not compile

    return isinstance(error, TorchDynamoException)


def _undo(compiled: Sequence[nn.Module], error: Exception) -> None:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    logger.warning("torch.compile does not work here (%s): the network is trained as it is", reason.strip())
    for module in compiled:
        module._compiled_call_impl = None
