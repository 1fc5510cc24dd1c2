"""Affinity propagation by hand."""

from __future__ import annotations

import torch

from ctm.pseudomasks.refine import propagate


def test_each_patch_becomes_the_row_normalised_average_of_the_patches_it_attends_to():
    maps = torch.tensor([[[[1.0, 4.0]], [[0.0, 8.0]]]])  # (1, 2, 1, 2)
    affinity = torch.tensor([[[3.0, 1.0], [0.0, 0.5]]])
    # patch 0: 3/4 of itself, 1/4 of patch 1; patch 1: itself
    assert torch.allclose(propagate(maps, affinity), torch.tensor([[[[1.75, 4.0]], [[2.0, 8.0]]]]))


def test_the_scale_of_the_affinity_does_not_matter():
    maps, affinity = torch.rand(2, 3, 2, 4), torch.rand(2, 8, 8)
    assert torch.allclose(propagate(maps, affinity), propagate(maps, affinity * 37), atol=1e-6)


def test_a_patch_that_attends_to_no_patch_stays_as_it_is():
    maps = torch.tensor([[[[5.0, 7.0]]]])
    assert torch.equal(propagate(maps, torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])), torch.tensor([[[[5.0, 5.0]]]]))
    assert torch.equal(propagate(maps, torch.zeros(1, 2, 2)), maps)


def test_a_constant_map_stays_constant():
    assert torch.allclose(propagate(torch.full((1, 1, 2, 2), 3.0), torch.rand(1, 4, 4)), torch.full((1, 1, 2, 2), 3.0))
