"""Closing of the attention heads that matter least, on a schedule, until a given fraction of all is closed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctm.models.gates import HardConcreteGate

__all__ = ["HeadSelection", "closed_fraction", "closing_order"]

MOMENTUM = 0.95
"""Of the running scores: about the last 20 steps count, so that the untrained head of the first steps is forgotten."""

FINISHED = 0.6
"""Share of the training after which no head is closed any more, so that the network can recover in the rest."""

LEAST = 1e-6
"""Score of an open head without any gradient: above 0, because a gate is open iff its logit is."""


class HeadSelection:
    """Makes the gates switches, whose logits are the heads' importance, and closes the lowest of all blocks.

    The importance of an open head is the running mean of ``|dL/dg|``, the absolute derivative of a step's loss by the
    gate's value, which at g = 1 is the first-order Taylor estimate of what closing it would change (Michel et al. 2019,
    equation 2; Molchanov et al. 2019). It needs neither a learning rate nor a penalty. Each block's derivatives are
    divided by their root mean square (Michel et al. 2019, section 4.1). A closed head's logit is minus its importance
    and stays so: its weights learn nothing any more. All state is in the logits.
    """

    def __init__(self, gates: Sequence[HardConcreteGate], *, sparsity: float, warmup: int, steps: int) -> None:
        """Opens all gates and switches their sampling off.

        Args:
            gates: of all blocks, each with as many heads.
            sparsity: fraction of the heads to close, 0 <= sparsity < 1; at least one stays open.
            warmup: first steps in which nothing is closed, as long as they are less than half of the schedule.
            steps: of the whole training.
        """
        self._gates, self._sparsity = gates, sparsity
        self._end = FINISHED * steps
        self._start = min(float(warmup), self._end / 2)
        for gate in gates:
            gate.sampled = False
            nn.init.ones_(gate.log_alpha)

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Takes the logits' gradients of step number ``step``, which counts from 0, and closes what is due after it."""
        logits = torch.stack([gate.log_alpha for gate in self._gates])  # (L, H)
        logits = _scored(logits, torch.stack([_take_gradient(gate) for gate in self._gates]))
        fraction = closed_fraction(step + 1, start=self._start, end=self._end, target=self._sparsity)
        closed = min(round(fraction * logits.numel()), logits.numel() - 1)
        flat = logits.view(-1)
        due = closing_order(logits)[:closed]
        flat[due] = -flat[due].abs()
        for gate, row in zip(self._gates, logits, strict=True):
            gate.log_alpha.copy_(row)


def closed_fraction(step: float, *, start: float, end: float, target: float) -> float:
    """The cubic schedule of Zhu and Gupta (2017, equation 1): 0 up to ``start``, ``target`` from ``end`` on."""
    share = min(1.0, max(0.0, (step - start) / (end - start)))
    return target * (1 - (1 - share) ** 3)


def closing_order(logits: Tensor) -> list[int]:
    """The heads in the order in which they close: by logit, but the best of each block after all others.

    Args:
        logits: (L, H); closed heads have the lowest, being negative.

    Returns:
        Positions in the flattened ``logits``; of equals the first comes first.
    """
    best = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(dim=1, keepdim=True), value=True)
    keys = list(zip(best.flatten().tolist(), logits.flatten().tolist(), strict=True))
    return sorted(range(len(keys)), key=keys.__getitem__)


def _scored(logits: Tensor, gradients: Tensor) -> Tensor:
    """The logits with the running mean of the open heads moved on; where a gradient is no number, its block's stay."""
    scores = gradients / gradients.square().mean(dim=1, keepdim=True).sqrt().clamp(min=torch.finfo().tiny)
    moved = (MOMENTUM * logits + (1 - MOMENTUM) * scores.abs()).clamp(min=LEAST)
    return torch.where((logits > 0) & gradients.isfinite().all(dim=1, keepdim=True), moved, logits)


def _take_gradient(gate: HardConcreteGate) -> Tensor:
    """The gradient at a gate's logits, which neither the clipping nor the optimiser sees then."""
    gradient, gate.log_alpha.grad = gate.log_alpha.grad, None
    return torch.zeros_like(gate.log_alpha) if gradient is None else gradient
