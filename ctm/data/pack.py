"""From a raw data set to shards: every sample read, checked and written once, with counts and channel statistics."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctm.data.datasets.reader import Reader
from ctm.data.sample import Sample, decode_image, encode_mask
from ctm.data.shards import TRUTH, ShardIndex, ShardWriter, SplitIndex, write_index
from ctm.errors import ParamsError
from ctm.runtime.progress import track
from ctm.stage import Metrics

__all__ = ["write_dataset_shards"]

logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def write_dataset_shards(
    reader: Reader, folder: Path, *, normalise: Literal["none", "imagenet", "statistics"], shard_mb: int
) -> Metrics:
    """Writes all splits of a raw data set as shards, one sample in memory at a time.

    Args:
        reader: the raw data set.
        folder: where the shards go.
        normalise: none, ImageNet's RGB mean and deviation, or those of the scaled pixels of the train split.
        shard_mb: size at which a shard is closed, in megabytes.

    Returns:
        Counts of each split: samples, samples with truth, mean labels a sample, and samples of each class.

    Raises:
        DataError: a sample is unreadable or inconsistent; no ``index.json`` is written then.
        ParamsError: ImageNet's three channels are asked of images with another number.
    """
    if normalise == "imagenet" and reader.channels != len(IMAGENET_MEAN):
        raise ParamsError(
            f"dataset.normalise 'imagenet' needs 3 channels, the images have {reader.channels}; use 'statistics'"
        )
    statistics = _ChannelStatistics(reader.channels)
    entries: dict[str, SplitIndex] = {}
    metrics: Metrics = {}
    for split, keys in reader.splits().items():
        with_truth = 0
        with ShardWriter(folder, split, classes=reader.classes, shard_mb=shard_mb) as writer:
            for sample in _samples(reader, split, keys):
                writer.add(sample.key, _members(sample), labels=sample.labels, height=sample.height, width=sample.width)
                with_truth += sample.mask is not None
                if normalise == "statistics" and split == "train":
                    statistics.update(decode_image(sample.image, sample.extension) * reader.scale)
        entries[split] = writer.entry
        metrics[split] = _counts(writer.entry, with_truth=with_truth)
        _warn_of_missing_classes(split, writer.entry)
    mean, std = {
        "none": (None, None),
        "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
        "statistics": (statistics.mean, statistics.std),
    }[normalise]
    index = ShardIndex(
        kind="images",
        classes=reader.classes.names,
        background=reader.classes.background,
        channels=reader.channels,
        scale=reader.scale,
        normalise=normalise,
        mean=mean,
        std=std,
        splits=entries,
    )
    write_index(folder, index)
    return metrics


def _samples(reader: Reader, split: str, keys: Sequence[str]) -> Iterable[Sample]:
    for key in track(keys, description=f"shards of {split}", total=len(keys)):
        yield reader.read(split, key)


def _members(sample: Sample) -> dict[str, bytes]:
    members = {sample.extension: sample.image}
    if sample.mask is not None:
        members[TRUTH] = encode_mask(sample.mask)
    return members


def _counts(entry: SplitIndex, *, with_truth: int) -> Metrics:
    return {
        "samples": entry.samples,
        "with_truth": with_truth,
        "labels_per_sample": sum(entry.labels.values()) / max(entry.samples, 1),
        "shards": len(entry.shards),
        "classes": dict(entry.labels),
    }


def _warn_of_missing_classes(split: str, entry: SplitIndex) -> None:
    missing = [name for name, count in entry.labels.items() if count == 0]
    if missing:
        logger.warning("split %r has no image with the label %s", split, ", ".join(missing))


class _ChannelStatistics:
    """Mean and deviation of each channel over all pixels, image by image in double precision.

    Merging by Chan, Golub & LeVeque (1983): sums of squares of large sets would lose the deviation to rounding.
    """

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean = np.zeros(channels)
        self._squares = np.zeros(channels)

    def update(self, image: NDArray[Any]) -> None:
        """Adds the pixels of an image, (Ch, H, W)."""
        pixels = image.reshape(image.shape[0], -1).astype(np.float64)  # (Ch, H*W)
        count = pixels.shape[1]
        mean = pixels.mean(axis=1)
        squares = ((pixels - mean[:, None]) ** 2).sum(axis=1)
        total = self._count + count
        delta = mean - self._mean
        self._mean += delta * count / total
        self._squares += squares + delta**2 * self._count * count / total
        self._count = total

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
