"""PAMR: equal to a naive loop, smoothing where nothing differs, stopped by edges, blind to scale and offset."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ctm.pseudomasks.pamr import refine_pixels

RINGS = (1, 2, 4, 8, 12, 24)


def naive(image: Tensor, maps: Tensor, iterations: int = 10) -> Tensor:
    """The definition, pixel by pixel, in double precision."""
    image, maps = image.double(), maps.double()
    channels, height, width = image.shape

    def around(y: int, x: int, *, own: bool) -> list[tuple[int, int]]:
        steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if own or (a, b) != (0, 0)]
        return [
            (min(max(y + d * a, 0), height - 1), min(max(x + d * b, 0), width - 1)) for d in RINGS for a, b in steps
        ]

    weights = {}
    for y in range(height):
        for x in range(width):
            scores = torch.zeros(48, dtype=torch.float64)
            for c in range(channels):
                values = torch.tensor([image[c, a, b] for a, b in around(y, x, own=True)])
                neighbours = torch.tensor([image[c, a, b] for a, b in around(y, x, own=False)])
                scores -= (neighbours - image[c, y, x]).abs() / (0.1 * values.std() + 1e-8) / channels
            weights[y, x] = scores.softmax(dim=0)
    for _ in range(iterations):
        before = maps.clone()
        for (y, x), weight in weights.items():
            values = torch.stack([before[:, a, b] for a, b in around(y, x, own=False)])
            maps[:, y, x] = weight @ values
    return maps


@pytest.mark.parametrize("channels", [1, 4])
def test_it_equals_the_definition(channels):
    generator = torch.Generator().manual_seed(channels)
    image = torch.rand(channels, 7, 9, generator=generator)
    maps = torch.rand(2, 7, 9, generator=generator)
    shares = maps / maps.sum(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(refine_pixels(image, maps).double(), naive(image, shares), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.3, -1e4])
def test_a_uniform_image_gives_the_plain_mean_of_the_neighbours(value):
    maps = torch.rand(1, 60, 50, generator=torch.Generator().manual_seed(0))
    expected = maps / maps.sum()
    for _ in range(10):
        padded = F.pad(expected[None], [24] * 4, mode="replicate")[0]
        views = [
            padded[:, 24 + d * a : 84 + d * a, 24 + d * b : 74 + d * b]
            for d in RINGS
            for a in (-1, 0, 1)
            for b in (-1, 0, 1)
            if a or b
        ]
        expected = torch.stack(views).mean(dim=0)
    torch.testing.assert_close(refine_pixels(torch.full((3, 60, 50), value), maps), expected)


def test_an_edge_of_the_image_stops_the_spread_and_draws_the_border():
    image = torch.zeros(3, 32, 32)
    image[:, :, 13:] = 1  # the border lies where no patch ends
    left = torch.zeros(1, 4, 4)
    left[:, :, :2] = 1  # what the map says ends at column 16
    maps = torch.cat([left, 1 - left])
    before = (F.interpolate(maps[None], size=(32, 32), mode="bilinear")[0]).argmax(dim=0)
    refined = refine_pixels(image, maps)
    after = refined.argmax(dim=0)
    assert (before[:, 13:15] == 0).all()
    assert (after[:, :13] == 0).all()
    assert (after[:, 13:] == 1).all()
    mean = refined[0].mean(dim=0)
    assert mean[12] > 1.5 * mean[13]


@pytest.mark.parametrize("size", [(3, 4), (24, 16)])
def test_constants_stay_and_the_range_is_kept(size):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(3, 24, 16, generator=generator)
    flat = refine_pixels(image, torch.full((1, *size), 4.2))
    torch.testing.assert_close(flat, torch.full((1, 24, 16), 1 / math.prod(size)))
    maps = torch.rand(2, *size, generator=generator)
    refined, shares = refine_pixels(image, maps), maps / maps.sum(dim=(1, 2), keepdim=True)
    assert (refined >= shares.amin(dim=(1, 2), keepdim=True) * (1 - 1e-5)).all()
    assert (refined <= shares.amax(dim=(1, 2), keepdim=True) * (1 + 1e-5)).all()


def test_the_scale_of_a_channel_and_of_a_map_does_not_matter():
    generator = torch.Generator().manual_seed(2)
    image, maps = torch.rand(2, 20, 20, generator=generator), torch.rand(3, 5, 5, generator=generator)
    expected = refine_pixels(image, maps)
    altered = image * torch.tensor([50.0, 0.25])[:, None, None] + torch.tensor([8.0, -3.0])[:, None, None]
    factors = torch.tensor([1e-6, 1.0, 1e6])[:, None, None]
    torch.testing.assert_close(refine_pixels(altered, maps * factors), expected, rtol=1e-3, atol=1e-7)


def test_a_zero_map_stays_one_and_no_candidate_is_no_map():
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(3))
    maps = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    refined = refine_pixels(image, maps)
    assert not refined[0].any()
    assert refined[1].all()
    assert refine_pixels(image, maps[:0]).shape == (0, 16, 16)
