"""One geometry for image and mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctm.data.config import AugmentConfig
from ctm.data.inputs import InputSpec
from ctm.data.transforms import Geometry, draw_geometry, image_to_input, mask_to_target

PLAIN = InputSpec(image_size=(16, 16), channels=3, scale=1.0)


def stripes(height: int, width: int) -> np.ndarray:
    """A mask of four quadrants 0..3, so that every flip shows."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[height // 2 :] += 2
    mask[:, width // 2 :] += 1
    return mask


def test_input_is_scaled_and_standardised() -> None:
    image = np.full((2, 8, 8), 51, dtype=np.uint8)
    inputs = InputSpec(image_size=(4, 6), channels=2, scale=1 / 255, mean=(0.1, 0.2), std=(0.5, 0.25))
    tensor = image_to_input(image, inputs)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, (2, 4, 6))
    torch.testing.assert_close(tensor[0], torch.full((4, 6), 0.2))
    torch.testing.assert_close(tensor[1], torch.zeros(4, 6), atol=1e-6, rtol=0)


def test_16_bit_values_do_not_overflow() -> None:
    inputs = InputSpec(image_size=(4, 4), channels=1, scale=1e-4)
    torch.testing.assert_close(
        image_to_input(np.full((1, 4, 4), 50000, dtype=np.uint16), inputs), torch.full((1, 4, 4), 5.0)
    )


def test_masks_keep_their_values() -> None:
    mask = np.array([[0, 255], [7, 3]], dtype=np.uint8)
    target = mask_to_target(mask, (5, 7))
    assert target.dtype == torch.int64
    assert set(target.unique().tolist()) == {0, 3, 7, 255}


def test_masks_are_sampled_at_pixel_centres() -> None:
    mask = np.arange(9, dtype=np.uint8)[None].repeat(9, axis=0)
    assert mask_to_target(mask, (3, 3))[0].tolist() == [1, 4, 7]


def test_an_unchanged_size_changes_nothing() -> None:
    mask = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    image = np.stack([mask] * 3)
    assert torch.equal(image_to_input(image, PLAIN), torch.from_numpy(image).float())
    assert torch.equal(mask_to_target(mask, (16, 16)), torch.from_numpy(mask).long())


@pytest.mark.parametrize("size", [(40, 40), (20, 52), (11, 9)])
@pytest.mark.parametrize("flip", ["none", "horizontal", "dihedral"])
def test_image_and_mask_get_the_same_geometry(size: tuple[int, int], flip: str) -> None:
    mask = stripes(*size)
    image = np.stack([mask] * 3)
    config = AugmentConfig(flip=flip, min_crop=0.5)  # type: ignore[arg-type]
    for seed in range(40):
        geometry = draw_geometry(config, size, (16, 16), rng=np.random.default_rng(seed))
        pixels = image_to_input(image, PLAIN, geometry)[0]
        target = mask_to_target(mask, (16, 16), geometry)
        whole = (pixels - pixels.round()).abs() < 1e-4  # away from the borders, where the image mixes two quadrants
        agreement = (pixels[whole].round().long() == target[whole]).float().mean()
        assert agreement > 0.97
        assert whole.float().mean() > 0.5


def test_crops_keep_the_aspect_and_stay_inside() -> None:
    config = AugmentConfig(flip="none", min_crop=0.3)
    shares = []
    for seed in range(200):
        found = draw_geometry(config, (50, 100), (16, 16), rng=np.random.default_rng(seed))
        assert 0 <= found.top <= 50 - found.height
        assert 0 <= found.left <= 100 - found.width
        assert found.width == pytest.approx(2 * found.height, abs=1.01)
        shares.append(found.height / 50)
    assert min(shares) == pytest.approx(0.3, abs=0.03)
    assert max(shares) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("flip", "size", "variants"),
    [("none", (8, 8), 1), ("horizontal", (8, 8), 2), ("dihedral", (8, 8), 8), ("dihedral", (8, 6), 4)],
)
def test_flips_are_the_ones_asked_for(flip: str, size: tuple[int, int], variants: int) -> None:
    config = AugmentConfig(flip=flip)  # type: ignore[arg-type]
    mask = stripes(*size)
    seen = set()
    for seed in range(100):
        geometry = draw_geometry(config, size, size, rng=np.random.default_rng(seed))
        seen.add(mask_to_target(mask, size, geometry).numpy().tobytes())
    assert len(seen) == variants


def test_no_transposition_where_it_would_distort() -> None:
    config = AugmentConfig(flip="dihedral")
    for seed in range(50):
        assert not draw_geometry(config, (30, 40), (16, 16), rng=np.random.default_rng(seed)).transpose


def test_flip_order_is_transpose_first() -> None:
    tensor = torch.arange(4).reshape(1, 2, 2)
    geometry = Geometry(0, 0, 2, 2, mirror=True, transpose=True)
    assert geometry.flip(tensor)[0].tolist() == [[2, 0], [3, 1]], "a quarter turn clockwise"
