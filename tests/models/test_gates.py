"""Hard concrete gates: hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch

from ctm.models.config import GatesConfig
from ctm.models.gates import HardConcreteGate


def make_gate(logits: list[float], *, hard: bool = True) -> HardConcreteGate:
    gate = HardConcreteGate(len(logits), GatesConfig(initial=0.0, beta=0.33, gamma=-0.1, zeta=1.1, hard=hard))
    gate.log_alpha.data = torch.tensor(logits)
    return gate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expected_soft(draw: float, logit: float) -> float:
    s = 1 / (1 + math.exp(-(math.log(draw) - math.log(1 - draw) + logit) / 0.33))
    return min(1.0, max(0.0, s * 1.2 - 0.1))


def test_the_penalty_is_the_sum_of_sigmoid_of_logit_plus_0_7913():
    logits = [-3.0, -0.7913, 0.0, 2.5]
    by_hand = sum(1 / (1 + math.exp(-(a + 0.7913))) for a in logits)
    assert make_gate(logits).penalty().item() == pytest.approx(by_hand, abs=1e-4)
    assert make_gate([-0.7913]).penalty().item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("hard", [True, False])
def test_in_evaluation_a_gate_is_one_above_zero_and_zero_otherwise(hard):
    gate = make_gate([-2.0, -1e-6, 0.0, 1e-6, 5.0], hard=hard).eval()
    assert gate().tolist() == [0, 0, 0, 1, 1]
    assert gate.open_heads().tolist() == [False, False, False, True, True]


def test_soft_samples_are_the_stretched_clamped_concrete_values():
    logits = [-1.0, 0.0, 0.5, 2.5]
    draws = torch.rand(4, generator=seeded(3)).tolist()
    by_hand = [expected_soft(u, a) for u, a in zip(draws, logits, strict=True)]
    assert make_gate(logits, hard=False)(seeded(3)).tolist() == pytest.approx(by_hand, abs=1e-5)


def test_hard_samples_are_the_soft_ones_rounded():
    logits = torch.linspace(-2, 2, 50).tolist()
    soft, hard = make_gate(logits, hard=False)(seeded(5)), make_gate(logits)(seeded(5))
    assert torch.equal(hard, (soft > 0.5).float())
    assert set(hard.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("hard", [True, False])
def test_the_gradient_reaches_the_logits_through_the_soft_gate(hard):
    gate = make_gate([0.1, -0.2, 0.3], hard=hard)
    draws = torch.rand(3, generator=seeded(1))
    gate(seeded(1)).sum().backward()
    s = torch.sigmoid((torch.logit(draws) + gate.log_alpha.detach()) / 0.33)
    inside = (s * 1.2 - 0.1 > 0) & (s * 1.2 - 0.1 < 1)
    assert inside.any()
    assert torch.allclose(gate.log_alpha.grad, inside * s * (1 - s) / 0.33 * 1.2, atol=1e-5)


def test_a_gate_that_is_not_sampled_is_a_switch_whose_gradient_arrives_as_it_is():
    gate = make_gate([-2.0, 0.0, 0.4, 30.0])
    gate.sampled = False
    value = gate(seeded())
    (value * torch.tensor([1.0, -2.0, 3.0, 4.0])).sum().backward()
    assert value.tolist() == [0, 0, 1, 1]
    assert gate.log_alpha.grad.tolist() == [1, -2, 3, 4]


def test_extreme_draws_give_finite_values_and_gradients():
    gate = make_gate([30.0, -30.0], hard=False)
    value = gate(seeded())
    (value.sum() + gate.penalty()).backward()
    assert value.tolist() == [1, 0]
    assert torch.isfinite(gate.log_alpha.grad).all()


def test_the_default_configuration_starts_every_head_open():
    assert HardConcreteGate(4, GatesConfig()).open_heads().all()
