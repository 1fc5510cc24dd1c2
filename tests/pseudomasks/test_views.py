"""Views: which sizes are read, how they are undone, and how their maps are averaged."""

from __future__ import annotations

import pytest
import torch

from ctm.pseudomasks.views import View, mean_maps, views_of


@pytest.mark.parametrize(
    ("scales", "sizes"),
    [
        ((1.0,), [(112, 168)]),
        ((0.75, 1.0, 1.5), [(112, 168), (84, 126), (168, 252)]),  # its own size first
        ((1.5, 2.0), [(168, 252), (224, 336)]),
        ((1.0, 1.01), [(112, 168)]),  # rounds to the same
        ((0.01,), [(14, 14)]),
        ((0.9,), [(98, 154)]),  # 100.8 and 151.2 pixels
    ],
)
def test_sizes_are_rounded_to_the_patch_and_read_once(scales, sizes):
    views = views_of((112, 168), scales=scales, flip=False, patch=14)
    assert views == [View(size, False) for size in sizes]
    both = views_of((112, 168), scales=scales, flip=True, patch=14)
    assert both == [View(size, mirrored) for size in sizes for mirrored in (False, True)]


def test_a_view_of_the_same_size_does_not_touch_the_image():
    images = torch.randn(2, 3, 8, 12)
    assert View((8, 12), False).apply(images) is images
    assert torch.equal(View((8, 12), True).undo(View((8, 12), True).apply(images)), images)


def test_each_view_counts_the_same_whatever_its_grid_and_scale():
    coarse, fine = torch.rand(2, 3, 2, 3), torch.rand(2, 3, 4, 6)
    mean = mean_maps([coarse, fine])
    assert mean.shape == fine.shape
    assert torch.allclose(mean.sum(dim=(2, 3)), torch.ones(2, 3))
    assert torch.allclose(mean_maps([coarse * 100, fine / 7]), mean)
    without_fine = mean - fine / fine.sum(dim=(2, 3), keepdim=True) / 2
    assert torch.allclose(without_fine.sum(dim=(2, 3)), torch.full((2, 3), 0.5))


def test_a_map_of_zeros_adds_nothing_and_stays_zero():
    maps, zero = torch.rand(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    assert not mean_maps([zero, zero]).any()
    assert torch.allclose(mean_maps([maps, zero]), maps / maps.sum(dim=(2, 3), keepdim=True) / 2)
