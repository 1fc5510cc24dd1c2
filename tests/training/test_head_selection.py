"""Closing heads by importance: the schedule, the order, the running scores, and what the gates do meanwhile."""

from __future__ import annotations

import pytest
import torch

from ctm.models.config import GatesConfig
from ctm.models.gates import HardConcreteGate
from ctm.training.head_selection import LEAST, MOMENTUM, HeadSelection, closed_fraction, closing_order


@pytest.mark.parametrize(
    ("step", "fraction"), [(0, 0), (10, 0), (15, 0.5 * (1 - 0.5**3)), (20, 0.5), (99, 0.5), (12.5, 0.5 * (1 - 0.75**3))]
)
def test_the_schedule_is_cubic_between_start_and_end(step, fraction):
    assert closed_fraction(step, start=10, end=20, target=0.5) == pytest.approx(fraction)


@pytest.mark.parametrize(
    ("logits", "order"),
    [
        ([[1.0, 2.0, 3.0]], [0, 1, 2]),
        ([[1.0, 2.0], [9.0, 8.0]], [0, 3, 1, 2]),  # head 1 is the best of its block, so 3 closes before it
        ([[-5.0, 2.0], [1.0, 8.0]], [0, 2, 1, 3]),  # a closed head comes first
        ([[-1.0, -2.0], [7.0, 8.0]], [1, 2, 0, 3]),  # and stays among the first three, though its block is empty
        ([[1.0, 1.0], [1.0, 1.0]], [1, 3, 0, 2]),  # of equals the first is the best, and closes first
    ],
)
def test_the_lowest_logits_close_first_and_the_best_of_each_block_last(logits, order):
    assert closing_order(torch.tensor(logits)) == order


def gates(blocks: int = 2, heads: int = 3) -> list[HardConcreteGate]:
    return [HardConcreteGate(heads, GatesConfig()) for _ in range(blocks)]


def logits(found: list[HardConcreteGate]) -> torch.Tensor:
    return torch.stack([gate.log_alpha.detach() for gate in found])


def give(found: list[HardConcreteGate], gradient: torch.Tensor) -> None:
    """What a backward pass leaves at the gates."""
    for gate, row in zip(found, gradient, strict=True):
        gate.log_alpha.grad = row.clone()


def run(found: list[HardConcreteGate], gradient: torch.Tensor, *, sparsity: float, steps: int) -> list[int]:
    """The number of closed heads after each step of a training with the same gradients in all of them."""
    selection = HeadSelection(found, sparsity=sparsity, warmup=2, steps=steps)
    closed = []
    for step in range(steps):
        give(found, gradient)
        selection(step)
        closed.append(int((logits(found) < 0).sum()))
    return closed


GRADIENT = torch.tensor([[0.1, -3.0, 2.0], [30.0, 10.0, -20.0]])


def test_the_heads_with_the_smallest_gradients_end_closed_and_the_others_open():
    found = gates()
    closed = run(found, GRADIENT, sparsity=0.5, steps=20)
    assert closed == sorted(closed)
    assert closed[:2] == [0, 0]
    assert closed[11] == closed[-1] == 3  # from 60 % on
    assert (logits(found) > 0).tolist() == [[False, True, True], [True, False, False]]
    assert all(gate.log_alpha.grad is None for gate in found)


@pytest.mark.parametrize(
    ("sparsity", "closed"), [(0.0, 0), (0.2, 1), (1 / 3, 2), (0.5, 3), (2 / 3, 4), (0.8, 5), (0.99, 5)]
)
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_the_sparsity_is_met_exactly_however_short_the_training_but_one_head_stays(sparsity, closed, steps):
    found = gates()
    assert run(found, GRADIENT, sparsity=sparsity, steps=steps)[-1] == closed
    assert all(gate.open_heads().tolist() == (gate.log_alpha > 0).tolist() for gate in found)


def test_every_block_keeps_its_best_head_as_long_as_others_are_open():
    found = gates()
    run(found, GRADIENT, sparsity=2 / 3, steps=20)
    assert [gate.open_heads().tolist() for gate in found] == [[False, True, False], [True, False, False]]


def test_the_logits_are_running_means_of_the_gradients_over_their_size_in_the_block():
    found = gates()
    run(found, GRADIENT, sparsity=0.0, steps=3)
    relative = GRADIENT.abs() / GRADIENT.square().mean(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(logits(found), MOMENTUM**3 * torch.ones(2, 3) + (1 - MOMENTUM**3) * relative)


def test_a_closed_head_stays_closed_whatever_its_gradient():
    found = gates()
    selection = HeadSelection(found, sparsity=1 / 3, warmup=0, steps=1)
    for step, gradient in enumerate([GRADIENT, GRADIENT, 1 / GRADIENT, 1 / GRADIENT]):
        give(found, gradient)
        selection(step)
        shut = logits(found) < 0
        assert (shut[0, 0], int(shut.sum())) == (True, 2)


def test_gradients_that_are_missing_zero_or_no_numbers_change_no_order():
    found = gates()
    selection = HeadSelection(found, sparsity=0.0, warmup=0, steps=4)
    selection(0)
    assert (logits(found) == MOMENTUM).all()
    for unusable in (torch.nan, torch.inf):
        before = logits(found)[0].clone()
        found[0].log_alpha.grad = torch.tensor([1.0, 5.0, unusable])
        selection(1)
        assert torch.equal(logits(found)[0], before)
    for gate in found:
        gate.log_alpha.data.fill_(LEAST)
    selection(2)
    assert (logits(found) == LEAST).all()


def test_the_state_is_in_the_logits_alone():
    first, second = gates(), gates()
    whole = HeadSelection(first, sparsity=0.5, warmup=1, steps=10)
    torch.manual_seed(0)
    gradients = torch.rand(10, 2, 3)
    for step in range(10):
        if step == 4:  # the process is killed, and the logits come back from the checkpoint
            resumed = HeadSelection(second, sparsity=0.5, warmup=1, steps=10)
            for old, new in zip(first, second, strict=True):
                new.log_alpha.data.copy_(old.log_alpha)
        give(first, gradients[step])
        whole(step)
        if step >= 4:
            give(second, gradients[step])
            resumed(step)
    assert torch.equal(logits(first), logits(second))
