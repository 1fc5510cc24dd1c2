"""The average of the weights: hand-computed values, what is left alone, and putting it in and out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctm.models.gates import HardConcreteGate
from ctm.training.ema import WeightAverage


class Model(nn.Module):
    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.norm = nn.BatchNorm1d(1)
        self.gate = HardConcreteGate(2)


def averaged(decay: float, values: list[float], *, start: float = 0.0) -> float:
    model = Model(start)
    average = WeightAverage(model, decay)
    for step, value in enumerate(values):
        model.weight.data.fill_(value)
        average.update(step)
    average.apply()
    return model.weight.item()


@pytest.mark.parametrize(
    ("decay", "values", "expected"),
    [
        (0.9, [1.0], 0.9),  # the first decay is 1/10
        (0.9, [1.0, 2.0], 0.9 * 2 / 11 + 2.0 * 9 / 11),
        (0.05, [1.0, 2.0], 0.95 * 0.05 + 2.0 * 0.95),  # the given decay is the smaller one
    ],
)
def test_the_decay_rises_to_the_one_asked_for(decay: float, values: list[float], expected: float):
    assert averaged(decay, values) == pytest.approx(expected)


def test_running_statistics_are_averaged_and_gates_and_counters_keep_their_present_state():
    model = Model()
    average = WeightAverage(model, 0.5)
    model.norm.running_mean.fill_(1.0)  # type: ignore[union-attr]
    model.norm.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    model.gate.log_alpha.data = torch.tensor([-1.0, 3.0])
    average.update(99)
    average.apply()
    assert model.norm.running_mean.item() == pytest.approx(0.5)  # type: ignore[union-attr, operator]
    assert model.norm.num_batches_tracked.item() == 7  # type: ignore[union-attr, operator]
    assert model.gate.open_heads().tolist() == [False, True]


def test_the_weights_come_back_even_after_an_error():
    model = Model(0.0)
    average = WeightAverage(model, 0.5)
    model.weight.data.fill_(4.0)
    average.update(99)
    weight = model.weight
    seen = []

    def validate() -> None:
        with average.applied():
            seen.append(model.weight.item())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate()
    assert (seen, model.weight.item()) == ([2.0], 4.0)
    assert model.weight is weight, "the optimiser would go on with another tensor"


def test_a_restored_average_goes_on_as_if_nothing_had_happened():
    model = Model(0.0)
    average = WeightAverage(model, 0.9)
    model.weight.data.fill_(1.0)
    average.update(0)
    restored = WeightAverage(Model(5.0), 0.9)
    restored.load_state_dict({name: value.clone() for name, value in average.state_dict().items()})
    assert {name: value.tolist() for name, value in restored.state_dict().items()} == {
        name: value.tolist() for name, value in average.state_dict().items()
    }
    with pytest.raises(KeyError):
        restored.load_state_dict({})
