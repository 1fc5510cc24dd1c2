"""Class-token masking: its truth table."""

from __future__ import annotations

import pytest
import torch

from ctm.models.token_masking import mask_absent_tokens


@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_exactly_the_absent_tokens_drawn_below_the_ratio_become_zero(ratio):
    tokens = torch.randn(40, 3, 5) + 10
    present = torch.rand(40, 3) < 0.4
    masked = mask_absent_tokens(tokens, present, ratio=ratio, generator=torch.Generator().manual_seed(7))
    draws = torch.rand(40, 3, generator=torch.Generator().manual_seed(7))
    assert torch.equal(masked, torch.where((present | (draws >= ratio))[..., None], tokens, 0))
    assert not torch.equal(masked, tokens)


def test_a_ratio_of_zero_changes_nothing_and_the_input_is_untouched():
    tokens = torch.randn(5, 3, 2)
    absent = torch.zeros(5, 3, dtype=torch.bool)
    assert torch.equal(mask_absent_tokens(tokens, absent, ratio=0.0), tokens)
    before = tokens.clone()
    mask_absent_tokens(tokens, absent, ratio=0.9)
    assert torch.equal(tokens, before)


def test_a_masked_token_is_zero_even_if_it_was_not_finite_and_gets_no_gradient():
    tokens = torch.full((1, 200, 1), torch.inf, requires_grad=True)
    masked = mask_absent_tokens(tokens, torch.zeros(1, 200, dtype=torch.bool), ratio=0.5)
    dropped = masked == 0
    assert 0 < dropped.sum() < 200
    assert torch.isinf(masked[~dropped]).all()
    masked.sum().backward()
    assert torch.equal(tokens.grad == 0, dropped)


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, float("nan")])
def test_ratios_outside_zero_to_one_are_refused(ratio):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        mask_absent_tokens(torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.bool), ratio=ratio)
