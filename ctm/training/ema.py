"""Exponential moving average of a model's weights, which is validated and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """The average of the weights and running statistics over the steps (Polyak and Juditsky 1992).

    The decay of step t is ``min(decay, (1 + t) / (10 + t))``, as in timm's ``ModelEmaV3``: the random start is soon
    forgotten. Head gates are switches and keep their present state, as do counters.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Starts from the weights as they are, on their device; ``decay`` is at least 0 and below 1."""
        self._model, self._decay = model, decay
        self._average = {name: value.clone() for name, value in self._current().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after the optimiser's step number ``step``, which counts from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self._current().items():
            self._average[name].lerp_(value, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the average into the model, and the weights back at the end."""
        weights = {name: value.clone() for name, value in self._current().items()}
        self.apply()
        try:
            yield
        finally:
            self._fill(self._current(), weights)

    def apply(self) -> None:
        """Puts the average into the model for good."""
        self._fill(self._current(), self._average)

    def state_dict(self) -> dict[str, Tensor]:
        """The average, for a checkpoint."""
        return dict(self._average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what ``state_dict`` gave; KeyError where it is of another model."""
        self._fill(self._average, state)

    def _current(self) -> dict[str, Tensor]:
        return {
            name: value
            for name, value in self._model.state_dict().items()
            if value.is_floating_point() and not name.endswith("log_alpha")
        }

    @staticmethod
    @torch.no_grad()
    def _fill(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensor.copy_(values[name])
