"""The patch head: one linear layer, and ranking pooling whose weight does not depend on the number of patches."""

from __future__ import annotations

import pytest
import torch

from ctm.models.patch_head import PatchHead, pool_by_rank


def pooled_by_loops(scores: torch.Tensor) -> torch.Tensor:
    """Global weighted ranking pooling, one image, class and rank at a time."""
    batch, patches, classes = scores.shape
    pooled = torch.zeros(batch, classes)
    for b in range(batch):
        for c in range(classes):
            ordered = sorted(scores[b, :, c].tolist(), reverse=True)
            weights = [0.99 ** (144 * j / patches) for j in range(patches)]
            pooled[b, c] = sum(w * s for w, s in zip(weights, ordered, strict=True)) / sum(weights)
    return pooled


@pytest.mark.parametrize("patches", [1, 6, 144])
def test_pooling_is_the_mean_weighted_by_rank(patches):
    scores = torch.randn(2, patches, 3)
    assert torch.allclose(pool_by_rank(scores), pooled_by_loops(scores), atol=1e-5)


@pytest.mark.parametrize("times", [2, 4, 9])
def test_a_finer_grid_that_says_the_same_pools_to_the_same(times):
    scores = torch.randn(2, 12, 3)
    assert torch.allclose(pool_by_rank(scores.repeat(1, times, 1)), pool_by_rank(scores), atol=1e-6)


def test_every_patch_gets_a_gradient():
    scores = torch.randn(1, 12, 2, requires_grad=True)
    pool_by_rank(scores).sum().backward()
    assert (scores.grad > 0).all()


def test_the_head_is_a_convolution_of_one_patch():
    head, patches = PatchHead(8, 3), torch.randn(2, 6, 8)
    weight, bias = head.linear.weight[:, :, None, None], head.linear.bias
    convolved = torch.nn.functional.conv2d(patches.transpose(1, 2).reshape(2, 8, 2, 3), weight, bias)
    assert torch.allclose(head(patches), convolved.flatten(2).transpose(1, 2), atol=1e-5)
