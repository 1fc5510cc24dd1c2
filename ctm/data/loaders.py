"""Batches from shards, the same for any number of worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ctm.data.classes import IGNORE
from ctm.data.config import AugmentConfig
from ctm.data.inputs import InputSpec
from ctm.data.shards import CONFIDENCE, Split
from ctm.data.transforms import Geometry, draw_geometry, image_to_input, mask_to_target
from ctm.errors import ArtifactError

__all__ = ["EpochSampler", "ShardDataset", "make_loader"]


class ShardDataset(Dataset[dict[str, Any]]):
    """Images of a split as a model's inputs, with image-level labels and, where asked, masks.

    An item is ``index`` (int), ``image`` (float32, (Ch, H, W)), ``labels`` (bool, (C,)), ``size`` (int64, native height
    and width) and, with ``masks``, ``mask`` (int64, (H, W)). The truth in the image shards is read only where ``masks``
    is that split and ``mask_member`` names it.
    """

    def __init__(
        self,
        images: Split,
        inputs: InputSpec,
        *,
        masks: Split | None = None,
        mask_member: str = "png",
        min_confidence: float = 0.0,
        samples: Sequence[int] | None = None,
        augment: AugmentConfig | None = None,
        seed: int = 0,
    ) -> None:
        """Joins masks to images by key.

        Args:
            images: split of image shards.
            inputs: what the model takes.
            masks: split with a mask for every image, such as pseudo-masks.
            mask_member: name of the masks' member.
            min_confidence: pixels of the masks whose confidence is less (0..1) become 255; 0 reads none.
            samples: which images of the split are used, by their position in it; None for all.
            augment: random changes; None for none.
            seed: random numbers depend on nothing but seed, epoch and index.

        Raises:
            ArtifactError: an image has no mask, or the masks have no confidence where one is asked for.
        """
        self.images = images
        self.inputs = inputs
        self._masks, self._mask_member, self._min_confidence = masks, mask_member, min_confidence
        self._positions = [] if masks is None else [masks.index_of(key) for key in images.keys]
        self._samples = range(len(images)) if samples is None else samples
        if masks is not None and min_confidence > 0 and CONFIDENCE not in masks.members:
            raise ArtifactError(
                f"the masks of split {masks.name!r} say nothing of their confidence, which min_confidence "
                f"{min_confidence:g} needs: set extract_pseudomasks.confidence: true (with assignment: argmax) and "
                "extract them again, or set train_segmenter.min_confidence: 0."
            )
        self._augment, self._seed = augment, seed

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        number, epoch = item if isinstance(item, tuple) else (item, 0)
        index = self._samples[number]
        image = self.images.image(index)
        if image.shape[0] != self.inputs.channels:
            raise ArtifactError(
                f"image {self.images.keys[index]!r} has {image.shape[0]} channels, the model takes "
                f"{self.inputs.channels}: they come from different data"
            )
        geometry = self._geometry(index, epoch=epoch)
        sample = {
            "index": index,
            "image": image_to_input(image, self.inputs, geometry),
            "labels": torch.from_numpy(self.images.labels[index]),
            "size": torch.from_numpy(self.images.sizes[index]),
        }
        if self._masks is not None:
            mask = self._mask(self._masks, index)
            sample["mask"] = mask_to_target(mask, self.inputs.image_size, geometry)
        return sample

    def _mask(self, masks: Split, index: int) -> NDArray[np.uint8]:
        """The mask of an image as it is stored, but for the pixels of too little confidence."""
        mask = masks.mask(self._positions[index], self._mask_member)
        self._check_size(index, mask.shape)
        if self._min_confidence > 0:
            confidence = masks.mask(self._positions[index], CONFIDENCE)
            self._check_size(index, confidence.shape)
            mask = np.where(confidence < 255 * self._min_confidence, np.uint8(IGNORE), mask)
        return mask

    def _geometry(self, index: int, *, epoch: int) -> Geometry | None:
        if self._augment is None:
            return None
        height, width = self.images.sizes[index].tolist()
        # The 1 keeps the stream of sample 0 apart from the sampler's: numpy pads short seeds with zeros.
        rng = np.random.default_rng([self._seed, epoch, index, 1])
        return draw_geometry(self._augment, (height, width), self.inputs.image_size, rng=rng)

    def _check_size(self, index: int, mask_size: tuple[int, ...]) -> None:
        size = tuple(self.images.sizes[index].tolist())
        if mask_size != size:
            raise ArtifactError(
                f"the mask of {self.images.keys[index]!r} has size {mask_size} (height, width), its image {size}: "
                "they come from different data"
            )


class EpochSampler(Sampler[tuple[int, int]]):
    """Pairs (index, epoch) of one process's share of the samples; the order depends only on seed and epoch.

    Sample k of an epoch goes to process k mod ``world``, so that a batch of all processes together holds the samples of
    one process's batch of that size. A shuffled order ends with the last whole batch (batch normalisation fails on a
    batch of one); if it has none, it is filled up from its own start until every process has as many. An ordered one
    is left as it is, so that every sample is seen exactly once.
    """

    def __init__(
        self, n: int, *, seed: int, shuffle: bool, batch_size: int | None = None, rank: int = 0, world: int = 1
    ) -> None:
        """Starts at epoch 0.

        Args:
            n: number of samples.
            seed: seed of the shuffling.
            shuffle: whether each epoch has a new random order.
            batch_size: samples of a batch of all processes together; None: a shuffled order leaves none out.
            rank: number of this process.
            world: number of processes.
        """
        self._n, self._seed, self._shuffle = n, seed, shuffle
        self._rank, self._world = rank, world
        whole = n // batch_size * batch_size if batch_size else 0
        self._used = (whole or n + -n % world) if shuffle else n
        self._epoch = self._start = 0

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Chooses the epoch of the next iteration, and how many samples of this process are left out at its start."""
        self._epoch, self._start = epoch, start

    def __len__(self) -> int:
        return len(range(self._rank, self._used, self._world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self._n)
        if self._shuffle:
            order = np.random.default_rng([self._seed, self._epoch]).permutation(self._n)
            order = np.resize(order, self._used)
        for index in order[self._rank :: self._world][self._start :].tolist():
            yield index, self._epoch


def _leave_group(worker: int) -> None:
    """A signal to the stage's process group, such as torchrun's SIGTERM, is for the stage to answer, not for workers.

    They end with their parent all the same.
    """
    os.setpgid(0, 0)


def make_loader(
    dataset: ShardDataset,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[dict[str, Any]]:
    """A loader of batches; its batches are the same for any number of workers.

    Call ``loader.sampler.set_epoch`` before each epoch. Which samples a shuffled loader leaves out: see
    ``EpochSampler``.

    Args:
        dataset: where the samples come from.
        batch_size: samples of a batch of all processes together, a multiple of their number.
        shuffle: whether each epoch has a new random order.
        seed: seed of the order.
        workers: number of processes that decode images; 0 for this one.
        rank: number of this process.
        world: number of processes.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size // world,
        sampler=EpochSampler(len(dataset), seed=seed, shuffle=shuffle, batch_size=batch_size, rank=rank, world=world),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_leave_group,
        # Without it the loader takes its workers' seed from the global generator, and moves that on.
        generator=torch.Generator().manual_seed(seed),
    )
