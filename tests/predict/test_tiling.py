"""Tiles: weights that sum to one, and the labels of the whole image where no tile's border is in sight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ctm.data.inputs import InputSpec
from ctm.data.transforms import image_to_input
from ctm.predict.network import Network
from ctm.predict.sources import ArraySource, Whole
from ctm.predict.tiling import tile_starts, tile_weights, tiled_mask
from tests.predict.conftest import CLASSES, smooth

CPU = torch.device("cpu")


@pytest.mark.parametrize("tile", [1, 3, 16, 37, 64, 100])
@pytest.mark.parametrize("length", [1, 16, 63, 64, 65, 70, 111, 112, 113, 300, 1001])
def test_the_weights_of_every_pixel_sum_to_one(length, tile):
    starts = tile_starts(length, tile)
    weights = tile_weights(starts, tile)
    total, covered = np.zeros(max(length, tile)), np.zeros(max(length, tile))
    for start, row in zip(starts, weights, strict=True):
        total[start : start + tile] += row
        covered[start : start + tile] += 1
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert weights.min() >= 0
    assert starts[-1] + tile == max(length, tile)
    assert all(after - before <= tile - tile // 4 for before, after in pairwise(starts))


def test_the_outermost_pixels_of_a_tile_count_only_where_the_image_ends():
    weights = tile_weights(tile_starts(112, 64), 64)  # two tiles that share 16 pixels
    assert (weights[0, :48] == 1).all()
    assert (weights[0, -4:] == 0).all()
    assert (weights[1, :4] == 0).all()
    assert (weights[1, 16:] == 1).all()
    assert (np.diff(weights[1, 4:12]) > 0).all()
    np.testing.assert_allclose(weights[0, 48:] + weights[1, :16], 1, rtol=1e-6)


def shallow() -> nn.Module:
    """Two convolutions: a pixel depends on what is at most two pixels away."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, len(CLASSES.names), 3, padding=1))


def reducing() -> nn.Module:
    """Works on cells of 4 pixels: a pixel depends on what is at most 16 pixels away."""
    last = nn.Conv2d(8, len(CLASSES.names), 3, padding=1)
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Tanh(), last, nn.Upsample(scale_factor=4, mode="bilinear"))


def network(model: nn.Module, size: tuple[int, int], *, batch_size: int = 3) -> Network:
    return Network(model.eval(), CLASSES, InputSpec(size, 3, 1 / 255, values="bytes"), CPU, batch_size)


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return kind()


def tiled(image: np.ndarray, model: Network, tile: tuple[int, int]) -> np.ndarray:
    source = ArraySource(Whole(image, np.zeros(image.shape[1:], dtype=bool)))
    return np.concatenate([*tiled_mask(source, model, tile)])


@torch.inference_mode()
def whole(image: np.ndarray, model: nn.Module) -> np.ndarray:
    """What the network says of the image in one piece."""
    inputs = InputSpec((image.shape[1], image.shape[2]), 3, 1 / 255)
    mask: np.ndarray = model(image_to_input(image, inputs)[None])[0].argmax(dim=0).numpy()
    return mask


@pytest.mark.parametrize("size", [(176, 128), (64, 64), (70, 200), (201, 133), (64, 65)])
def test_tiled_is_whole_where_the_network_sees_less_than_the_ignored_border(size):
    image, model = smooth(3, size), made(shallow)
    found = tiled(image, network(model, (64, 64)), (64, 64))
    assert len(np.unique(found)) == 3
    differing = found != whole(image, model)
    assert differing.sum() <= 2  # ties but for rounding


def test_tiled_is_whole_beyond_what_the_network_sees_of_a_border():
    image, model = smooth(3, (64 + 3 * 48, 64 + 2 * 48)), made(reducing)
    found, expected = tiled(image, network(model, (64, 64)), (64, 64)), whole(image, model)
    near = np.zeros(found.shape, dtype=bool)
    for axis, length in enumerate(found.shape):
        for start in tile_starts(length, 64):
            for border in {start, start + 64} - {0, length}:
                pixels = np.arange(length)
                close = (pixels >= border - 16) & (pixels < border + 16)
                near |= close[:, None] if axis == 0 else close[None, :]
    assert 0.1 < (~near).mean() < 0.9
    assert len(np.unique(found[~near])) > 1
    assert (found != expected)[~near].sum() <= 2
    assert (found != expected).mean() < 0.1  # nor is it far off elsewhere


def test_the_batch_size_changes_nothing():
    image, model = smooth(3, (150, 170)), made(shallow)
    one, many = (tiled(image, network(model, (64, 64), batch_size=size), (64, 64)) for size in (1, 100))
    assert (one != many).sum() <= 2


class Position(nn.Module):
    """Says of every pixel how far to the right of its tile it is: as unlike at a tile's two borders as can be."""

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, images.shape[-1]).expand(len(images), 1, *images.shape[-2:])
        return torch.cat([ramp, torch.zeros_like(ramp), torch.full_like(ramp, -9)], dim=1)


def test_overlaps_are_blended_without_a_seam():
    image = smooth(3, (64, 64 + 48))
    columns = tiled(image, network(Position(), (64, 64)), (64, 64))
    assert (columns == columns[0]).all()
    changes = np.flatnonzero(np.diff(columns[0].astype(int))).tolist()
    # Left tile: sea from its middle on. In the overlap from 48 its logit 0.5 .. 1 meets -1 .. -0.5 of the right tile;
    # the blend crosses zero once, in the middle of the overlap, not at one of the borders at 48 and 64.
    assert changes == [31, 55, 79]


def test_a_tile_is_resized_to_the_input_and_back():
    image = smooth(3, (96, 96)).repeat(2, axis=1).repeat(2, axis=2)
    model = made(shallow)
    small = tiled(image[:, ::2, ::2], network(model, (64, 64)), (64, 64))
    large = tiled(image, network(model, (64, 64)), (128, 128))
    assert large.shape == (192, 192)
    assert (large[::2, ::2] == small).mean() > 0.9


@pytest.mark.parametrize("size", [(10, 100), (100, 10), (1, 1), (63, 64)])
def test_an_image_smaller_than_a_tile_keeps_its_resolution(size):
    image, model = smooth(3, size), made(shallow)
    found = tiled(image, network(model, (64, 64)), (64, 64))
    assert found.shape == size
    expected = whole(image, model)
    inner = tuple(slice(0, length - 2 if length < 64 else length) for length in size)  # reflection, not zeros, beyond
    assert (found != expected)[inner].sum() <= 2


class Holes(ArraySource):
    """An image of which a part is missing, and which counts what is asked of it."""

    def __init__(self, image: np.ndarray, missing: np.ndarray) -> None:
        super().__init__(Whole(image, missing))
        self.tiles = 0

    def stored(self, values: np.ndarray) -> np.ndarray:
        self.tiles += 1
        return values


def test_missing_pixels_get_no_class_and_empty_tiles_no_work():
    image, model = smooth(3, (112, 208)), made(shallow)
    missing = np.zeros((112, 208), dtype=bool)
    missing[:, 100:] = True
    missing[5, 5] = True
    source = Holes(image, missing)
    found = np.concatenate([*tiled_mask(source, network(model, (64, 64)), (64, 64))])
    np.testing.assert_array_equal(found == 255, missing)
    assert source.tiles == 6  # of 8: those that begin at column 144 are empty


def test_a_tile_shows_as_much_as_a_training_image_did():
    inputs = InputSpec((224, 224), 3, 1 / 255, values="bytes", stored_size=(300, 400))
    model = replace(network(shallow(), (1, 1)), inputs=inputs)
    assert model.tile_size() == (300, 400)
    assert model.tile_size(150) == (150, 200)
    assert replace(model, inputs=replace(inputs, stored_size=None)).tile_size() == (224, 224)
