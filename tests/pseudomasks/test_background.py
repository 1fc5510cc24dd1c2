"""Otsu's threshold against exhaustive search, and what it is worth on synthetic maps."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ctm.pseudomasks.background import otsu_threshold


def scene(share: float, *, seed: int = 0, noise: float = 0.1) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A map scaled to maximum 1 with a disk of a share of the pixels: a smooth top, a low ground, noise on both."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    radius = np.sqrt(4 * share / np.pi)
    distance = np.hypot(x, y) / radius
    values = 0.15 + 0.75 / (1 + np.exp(8 * (distance - 1))) + rng.normal(0, noise, x.shape)
    values = values.clip(min=0)
    return values / values.max(), distance < 1


def overlap(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    found = values >= otsu_threshold(values)
    return float((found & truth).sum() / (found | truth).sum())


def test_two_values_are_parted_in_the_middle():
    assert otsu_threshold(np.array([0.2, 0.8, 0.8])) == pytest.approx(0.5, abs=1 / 256)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_has_a_larger_variance_between_the_groups(seed):
    values = (np.random.default_rng(seed).integers(0, 256, 300) + 0.5) / 256

    def between(threshold: float) -> float:
        low, high = values[values < threshold], values[values >= threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(between(edge / 256) for edge in range(1, 256) if values.min() < edge / 256 < values.max())
    assert between(otsu_threshold(values)) == pytest.approx(best)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_constant_map_has_no_background(value):
    assert otsu_threshold(np.full((4, 5), value)) == 0


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4, 0.6])
def test_objects_of_a_fair_share_of_the_image_are_found(share):
    assert np.mean([overlap(*scene(share, seed=seed)) for seed in range(5)]) > 0.85


def test_a_tiny_object_in_noise_and_an_image_without_background_are_cut_wrongly():
    # the limits that the docstring states
    assert overlap(*scene(0.005)) < 0.3
    values, _ = scene(3)
    assert (values < otsu_threshold(values)).mean() > 0.2
