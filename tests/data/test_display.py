"""Pictures for the eye: what becomes visible of images of any number of bands."""

from __future__ import annotations

import numpy as np
import pytest

from ctm.data.display import display_rgb

RNG = np.random.default_rng(0)


def test_photographs_keep_their_values():
    image = RNG.integers(90, 110, size=(3, 4, 5), dtype=np.uint8)
    assert np.array_equal(display_rgb(image), image.transpose(1, 2, 0))
    assert np.array_equal(display_rgb(image[:1]), np.repeat(image[:1], 3, axis=0).transpose(1, 2, 0))


def test_sentinel_2_is_shown_by_bands_4_3_2():
    image = np.zeros((15, 4, 4), dtype=np.uint16)
    image[3], image[2], image[1] = 3000, 2000, 1000
    assert display_rgb(image)[0, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12, 13])
def test_any_number_of_bands_makes_a_stretched_picture(channels: int):
    image = RNG.uniform(0.2, 0.3, size=(channels, 6, 7)).astype(np.float32)
    image[:, 0, 0] = np.nan
    picture = display_rgb(image)
    assert picture.shape == (6, 7, 3)
    assert picture.dtype == np.uint8
    assert (picture.min(), picture.max()) == (0, 255)


def test_a_constant_image_is_no_error():
    assert display_rgb(np.full((4, 3, 3), 5, dtype=np.uint16)).shape == (3, 3, 3)
