"""Baselines that any class map must beat: chance, and a classifier that sees one pixel at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ctm.data.classes import IGNORE
from ctm.errors import DataError

__all__ = ["SpectralClassifier", "random_mask"]

MAX_IMAGES = 2048
"""Images that the spectral classifier learns from at most; their choice is uniform over all."""

PIXELS_PER_IMAGE = 128
HIDDEN = 64
EPOCHS = 15
BATCH = 2048
LEARNING_RATE = 5e-3


def random_mask(labels: NDArray[np.bool_], size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Gives each pixel a class drawn uniformly from those present.

    Args:
        labels: (C,) which class tokens are present.
        size: (H, W) of the mask.
        rng: source of the draws.

    Returns:
        (H, W) token indices; all 255 if no class is present.
    """
    present = np.flatnonzero(labels).astype(np.uint8)
    return rng.choice(present, size=size) if present.size else np.full(size, IGNORE, dtype=np.uint8)


class SpectralClassifier:
    """A small network on single pixels that learns from image-level labels alone.

    Each pixel's target is its image's label, spread evenly over the classes present. It knows colours or spectra and
    nothing of shapes: where it is good, a task needs no attention.
    """

    def __init__(self, network: nn.Sequential, *, mean: Tensor, deviation: Tensor) -> None:
        self._network = network
        self._mean = mean  # (Ch,)
        self._deviation = deviation  # (Ch,)

    @classmethod
    def fit(cls, samples: Iterable[tuple[Tensor, Tensor]], *, seed: int) -> SpectralClassifier:
        """Trains on a bounded sample of pixels, so memory does not grow with the data set.

        Args:
            samples: pairs of an image (Ch, H, W) and its labels (C,); images without a label are passed over.
            seed: of the choice of pixels, the initial weights and the order.

        Raises:
            DataError: if no sample has a label.
        """
        pixels, targets = _sample_pixels(samples, np.random.default_rng(seed))
        deviation, mean = torch.std_mean(pixels, dim=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _train((pixels - mean) / (deviation + 1e-6), targets)
        return cls(network, mean=mean, deviation=deviation)

    @torch.inference_mode()
    def predict(self, image: Tensor, labels: Tensor) -> NDArray[np.uint8]:
        """Gives each pixel the most probable class among those present.

        Args:
            image: (Ch, H, W), prepared as in training.
            labels: (C,) which class tokens are present.

        Returns:
            (H, W) token indices; all 255 if no class is present.
        """
        channels, height, width = image.shape
        if not labels.any():
            return np.full((height, width), IGNORE, dtype=np.uint8)
        pixels = image.reshape(channels, -1).T  # (H·W, Ch)
        logits = self._network((pixels - self._mean) / (self._deviation + 1e-6))
        chosen = logits.masked_fill(~labels.bool(), -torch.inf).argmax(dim=1)
        mask: NDArray[np.uint8] = chosen.reshape(height, width).to(torch.uint8).numpy()
        return mask


def _sample_pixels(samples: Iterable[tuple[Tensor, Tensor]], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Reservoir of images: pixels (N, Ch) and their soft targets (N, C)."""
    kept: list[tuple[Tensor, Tensor]] = []
    labelled = ((image, labels) for image, labels in samples if labels.any())
    for seen, (image, labels) in enumerate(labelled):
        place = seen if seen < MAX_IMAGES else int(rng.integers(seen + 1))
        if place >= MAX_IMAGES:
            continue
        chosen = torch.from_numpy(rng.integers(image[0].numel(), size=PIXELS_PER_IMAGE))
        target = labels.float() / labels.sum()
        kept[place : place + 1] = [(image.flatten(1)[:, chosen].T, target.expand(PIXELS_PER_IMAGE, -1))]
    if not kept:
        raise DataError("The spectral baseline has nothing to learn from: no train sample has an image-level label.")
    pixels, targets = zip(*kept, strict=True)
    return torch.cat(pixels), torch.cat(targets)


def _train(pixels: Tensor, targets: Tensor) -> nn.Sequential:
    """Fits the network to pixels (N, Ch) and soft targets (N, C) with torch's global generator."""
    network = nn.Sequential(
        nn.Linear(pixels.shape[1], HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, targets.shape[1]),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(pixels)), BATCH):
            optimiser.zero_grad()
            loss = functional.cross_entropy(network(pixels[batch]), targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]  # as torch leaves it
            optimiser.step()
    return network.eval()
