"""Mean and deviation of image channels, image by image, in double precision.

Merged by Chan, Golub & LeVeque (1983): sums of squares of large sets would lose the deviation to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChannelStatistics", "Moments", "channel_moments"]


class Moments(NamedTuple):
    """The statistics of some pixels, by channel."""

    pixels: int
    """How many they are."""
    mean: tuple[float, ...]
    """Their mean."""
    squares: tuple[float, ...]
    """The sum of their squared differences from the mean."""

    @classmethod
    def of_nothing(cls, channels: int) -> Moments:
        """The statistics of no pixels."""
        return cls(0, (0.0,) * channels, (0.0,) * channels)


def channel_moments(image: NDArray[Any], scale: float) -> Moments:
    """The statistics of the pixels of an image, (Ch, H, W), times ``scale``."""
    pixels = image.reshape(image.shape[0], -1).astype(np.float64, order="C")  # (Ch, H*W)
    mean = pixels.mean(axis=1)
    pixels -= mean[:, None]
    squares = np.einsum("cp,cp->c", pixels, pixels)
    return Moments(pixels.shape[1], tuple((mean * scale).tolist()), tuple((squares * scale**2).tolist()))


class ChannelStatistics:
    """Mean and deviation of each channel over the pixels of all images that are merged in."""

    def __init__(self, start: Moments) -> None:
        """Goes on from ``start``."""
        self._count = start.pixels
        self._mean = np.array(start.mean)
        self._squares = np.array(start.squares)

    def merge(self, image: Moments) -> None:
        """Adds the pixels of an image."""
        total = self._count + image.pixels
        delta = np.array(image.mean) - self._mean
        self._mean += delta * image.pixels / total
        self._squares += np.array(image.squares) + delta**2 * self._count * image.pixels / total
        self._count = total

    @property
    def moments(self) -> Moments:
        """All that is known, exactly: numbers from which to go on."""
        return Moments(self._count, tuple(self._mean.tolist()), tuple(self._squares.tolist()))

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, to six digits: enough for training, and the same on every processor."""
        return _six_digits(self._mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Deviation of each channel; 1 where a channel is constant, which then becomes 0 by its mean alone."""
        deviation = np.sqrt(self._squares / max(self._count, 1))
        return _six_digits(np.where(deviation > 1e-6, deviation, 1.0))


def _six_digits(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
