"""Head gates: a learned switch for each attention head, sampled from the hard concrete distribution in training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctm.models.config import GatesConfig

__all__ = ["HardConcreteGate"]

MARGIN = 1e-6
"""Keeps the uniform draws off 0 and 1, where their logit is infinite."""


class HardConcreteGate(nn.Module):
    """The gates of one block's heads (Louizos et al. 2018, equations 10 to 12; Voita et al. 2019).

    Attributes:
        log_alpha: gate logits a, (H,).
        sampled: False makes the gate a plain switch in training too, open iff a > 0; the gradient of the switch's value
            then arrives at a as it is.
    """

    def __init__(self, num_heads: int, config: GatesConfig) -> None:
        """Starts every gate at the same logit."""
        super().__init__()
        self.beta, self.gamma, self.zeta, self.hard = config.beta, config.gamma, config.zeta, config.hard
        self.sampled = True
        self.log_alpha = nn.Parameter(torch.full((num_heads,), config.initial))

    def forward(self, generator: torch.Generator | None = None) -> Tensor:
        """The gates' values, (H,): one sample in training, exactly 0 or 1 (open iff a > 0) in evaluation.

        Args:
            generator: source of the sample, on any device, so that all ranks can draw the same; None: the global one.
        """
        if not self.training:
            return self.open_heads().to(self.log_alpha.dtype)
        if not self.sampled:
            return _straight_through(self.open_heads(), self.log_alpha)
        device = self.log_alpha.device if generator is None else generator.device
        draws = torch.rand(self.log_alpha.shape, generator=generator, device=device).to(self.log_alpha.device)
        noise = torch.logit(draws.clamp(MARGIN, 1 - MARGIN))
        soft = torch.sigmoid((noise + self.log_alpha) / self.beta)
        soft = (soft * (self.zeta - self.gamma) + self.gamma).clamp(0, 1)
        return _straight_through(soft > 0.5, soft) if self.hard else soft

    def penalty(self) -> Tensor:
        """Expected number of open heads, a scalar: the sum over the heads of P(gate > 0)."""
        return torch.sigmoid(self.log_alpha - self.beta * math.log(-self.gamma / self.zeta)).sum()

    def open_heads(self) -> Tensor:
        """Which heads are open in evaluation, (H,) bool."""
        return self.log_alpha.detach() > 0


def _straight_through(value: Tensor, source: Tensor) -> Tensor:
    """``value`` exactly, with the gradient of ``source``: the difference that is added is an exact zero."""
    return value.to(source.dtype) + (source - source.detach())
