"""Masks at the image's own size: the same by bands of rows as at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from bench.measure import peak_megabytes
from ctm.models.native_mask import native_mask


def logits(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(5, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(97, 131), (16, 24), (7, 9), (200, 3), (1, 1)])
def test_it_is_the_largest_of_the_resized_logits(size):
    small = logits((16, 24))
    expected = interpolate(small[None], size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0).numpy()
    mask = native_mask(small, size)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("size", [(97, 131), (400, 50), (16, 24), (7, 9), (1, 1)])
@pytest.mark.parametrize("most_values", [1, 3000, 20_000])
def test_bands_of_rows_give_the_same(size, most_values):
    small = logits((16, 24))
    found = native_mask(small, size, most_values=most_values)
    assert found.shape == size
    assert (found != native_mask(small, size)).sum() <= size[0] * size[1] * 1e-3  # ties but for rounding


@pytest.mark.parametrize("classes", [2, 8, 21])
@pytest.mark.parametrize("size", [(500, 160), (1024, 1024)])
def test_no_more_is_held_than_is_said(classes, size):
    small, most_values = torch.randn(classes, 32, 32), classes * 500 * 160  # the smaller image at once
    peak = peak_megabytes(lambda: native_mask(small, size, most_values=most_values))
    masks = 2 * size[0] * size[1]  # in pieces, and as a whole
    assert peak * 1e6 < 1.2 * 4 * most_values + masks
