"""Losses for noisy masks: what their papers say, and pixels of 255 teach nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ctm.training.noisy_labels import LOSSES

Loss = Callable[[Tensor, Tensor], Tensor]

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def draw(*, ignored: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, 3, generator=generator, dtype=torch.float64)
    target = torch.randint(5, (2, 4, 3), generator=generator)
    if ignored:
        target[0, :2] = 255
    return logits, target


def written_out(name: str, logits: Tensor, target: Tensor) -> Tensor:
    """The papers' sums over classes, pixel by pixel."""
    p = logits.softmax(dim=1)
    q = one_hot(target, 5).movedim(-1, 1).double()
    if name == "sce":
        log_q = torch.where(q > 0, 0.0, -4.0)
        pixels = -0.1 * (q * p.log()).sum(1) - 1.0 * (p * log_q).sum(1)
    else:
        z = one_hot(p.argmax(1), 5).movedim(-1, 1).double()
        beta = 0.8 if name == "bootstrap" else 1.0
        pixels = -((beta * q + (1 - beta) * z) * p.log()).sum(1)
    return pixels.mean()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_their_papers(name):
    logits, target = draw(ignored=False)
    assert torch.allclose(LOSSES[name](logits, target), written_out(name, logits, target))


@every_loss
def test_ignored_pixels_count_neither_in_the_mean_nor_in_the_gradient(loss):
    logits, target = draw()
    logits.requires_grad_()
    found = loss(logits, target)
    found.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(dim=1) > 0, target != 255)
    with torch.no_grad():
        decided = logits.movedim(1, -1)[target != 255].T[None, ..., None]
        assert torch.allclose(found, loss(decided, target[target != 255][None, :, None]))


@every_loss
def test_a_batch_without_a_decision_is_worth_nothing(loss):
    logits = draw()[0].requires_grad_()
    found = loss(logits, torch.full((2, 4, 3), 255))
    found.backward()
    assert float(found.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", ["sce", "bootstrap"])
def test_a_label_that_contradicts_a_sure_network_pulls_less_than_under_cross_entropy(name):
    def pull(loss: Loss) -> float:
        logits = torch.tensor([6.0, 0.0, 0.0]).view(1, 3, 1, 1).requires_grad_()
        loss(logits, torch.ones(1, 1, 1, dtype=torch.int64)).backward()
        assert logits.grad is not None
        return float(logits.grad.abs().max())

    assert pull(LOSSES[name]) < pull(LOSSES["ce"])
