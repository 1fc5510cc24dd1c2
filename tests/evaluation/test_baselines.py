"""The random and the spectral baseline on small synthetic scenes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctm.data.classes import ClassTable
from ctm.errors import DataError
from ctm.evaluation import baselines
from ctm.evaluation.baselines import SpectralClassifier, random_mask
from ctm.evaluation.masks import MaskScore

CLASSES = ClassTable(("a", "b", "c", "d"))
SIGNATURES = np.random.default_rng(7).uniform(0.1, 0.9, size=(4, 5))


def scenes(count: int, *, seed: int) -> Iterator[tuple[Tensor, Tensor, NDArray[np.uint8]]]:
    """Images (5, 16, 16) of two classes side by side, their labels and their truth."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        left, right = rng.choice(4, size=2, replace=False)
        truth = np.full((16, 16), left, dtype=np.uint8)
        truth[:, int(rng.integers(4, 12)) :] = right
        image = SIGNATURES[truth] + 0.05 * rng.normal(size=(16, 16, 5))
        labels = torch.tensor([k in (left, right) for k in range(4)])
        yield torch.tensor(image.transpose(2, 0, 1), dtype=torch.float32), labels, truth


def fit(seed: int) -> SpectralClassifier:
    return SpectralClassifier.fit(((image, labels) for image, labels, _ in scenes(40, seed=1)), seed=seed)


@pytest.fixture(scope="module")
def classifier() -> SpectralClassifier:
    return fit(0)


def test_the_random_mask_has_only_present_classes_about_equally_often():
    mask = random_mask(np.array([True, False, True, False]), (60, 50), np.random.default_rng(0))
    values, counts = np.unique(mask, return_counts=True)
    assert mask.shape == (60, 50)
    assert mask.dtype == np.uint8
    assert values.tolist() == [0, 2]
    assert counts.min() > 0.45 * mask.size


def test_without_a_present_class_both_baselines_decide_nothing(classifier):
    assert (random_mask(np.zeros(4, dtype=bool), (3, 2), np.random.default_rng(0)) == 255).all()
    assert (classifier.predict(torch.zeros(5, 3, 2), torch.zeros(4, dtype=torch.bool)) == 255).all()


def test_the_spectral_classifier_is_far_better_than_chance_where_pixels_tell_the_class(classifier):
    spectral, chance = MaskScore(CLASSES), MaskScore(CLASSES)
    rng = np.random.default_rng(0)
    for image, labels, truth in scenes(20, seed=2):
        spectral.update(classifier.predict(image, labels), truth)
        chance.update(random_mask(labels.numpy(), (16, 16), rng), truth)
    assert chance.compute()["miou"] < 0.4
    assert spectral.compute()["miou"] > 0.8


def test_the_spectral_classifier_follows_its_seed_and_leaves_the_global_generator_alone(classifier):
    image, labels, _ = next(scenes(1, seed=5))
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    again = fit(0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(again.predict(image, labels), classifier.predict(image, labels))


def test_memory_is_bounded_and_every_part_of_the_data_can_be_chosen(monkeypatch):
    monkeypatch.setattr(baselines, "MAX_IMAGES", 10)
    samples = ((torch.full((1, 4, 4), float(k)), torch.tensor([True])) for k in range(200))
    pixels, targets = baselines._sample_pixels(samples, np.random.default_rng(0))
    assert len(pixels) == len(targets) == 10 * baselines.PIXELS_PER_IMAGE
    assert len(pixels.unique()) == 10
    assert pixels.max() > 100


def test_samples_without_a_label_teach_nothing():
    with pytest.raises(DataError, match="no train sample has an image-level label"):
        SpectralClassifier.fit([(torch.zeros(3, 4, 4), torch.zeros(2, dtype=torch.bool))], seed=0)
