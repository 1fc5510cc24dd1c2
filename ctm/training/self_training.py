"""Self-training: a trained segmenter's masks of the train images, of their own classes only, teach a fresh one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset, make_loader
from ctm.data.sample import encode_mask
from ctm.data.shard_index import INDEX, ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import CONFIDENCE, Split
from ctm.runtime.outputs import remove
from ctm.runtime.progress import track

__all__ = ["OwnMask", "number_rows", "own_masks", "write_own_masks"]

logger = logging.getLogger(__name__)


def number_rows(history: Sequence[Mapping[str, Any]], number: int) -> list[dict[str, Any]]:
    """The rows of a round with its number, their epochs counted on from those of the rounds before it."""
    before = number * len(history)
    return [{**row, "epoch": before + row["epoch"], "round": number} for row in history]


@dataclass(frozen=True)
class OwnMask:
    """What a segmenter says of one image.

    Attributes:
        index: of the sample in its split.
        mask: (H, W) mask values at the size of the stored image; 255 everywhere where no class is a candidate.
        confidence: (H, W) 255 times the probability of the pixel's class among the candidates.
    """

    index: int
    mask: NDArray[np.uint8]
    confidence: NDArray[np.uint8]


def write_own_masks(
    folder: Path,
    model: nn.Module,
    images: Split,
    candidates: Split,
    inputs: InputSpec,
    *,
    classes: ClassTable,
    device: torch.device,
    batch_size: int,
    workers: int,
) -> None:
    """Writes ``own_masks`` as mask shards, which an interrupted run finds again; they hold a confidence, too.

    Args:
        folder: of this very round; if its shards are complete they are taken as they are.
        model: maps images to logits (B, K, H, W).
        images: what is segmented.
        candidates: split whose image-level labels are the classes that a mask may hold beside the background, such
            as that of the pseudo-masks: they are the given labels, or the predicted ones.
        inputs: what the model takes.
        classes: what the mask values mean.
        device: where the model is.
        batch_size: images in one forward pass.
        workers: processes that decode images.
    """
    if not (folder / INDEX).is_file():
        remove(folder)
        masks = own_masks(
            model,
            images,
            _values(images, candidates, classes),
            inputs,
            device=device,
            batch_size=batch_size,
            workers=workers,
        )
        with ShardWriter(folder, images.name, classes=classes) as writer:
            for found in masks:
                height, width = found.mask.shape
                members = {"png": encode_mask(found.mask), CONFIDENCE: encode_mask(found.confidence)}
                writer.add(images.keys[found.index], members, labels=(), height=height, width=width)
        splits = {images.name: writer.entry}
        write_index(
            folder, ShardIndex(kind="masks", classes=classes.names, background=classes.background, splits=splits)
        )


@torch.inference_mode()
def own_masks(
    model: nn.Module,
    images: Split,
    values: NDArray[np.bool_],
    inputs: InputSpec,
    *,
    device: torch.device,
    batch_size: int,
    workers: int,
) -> Iterator[OwnMask]:
    """Yields the segmenter's mask of every image, in order: the mean over it and its mirror image, then the largest.

    Args:
        model: maps images to logits (B, K, H, W).
        images: what is segmented.
        values: (N, K) the mask values that each image's mask may hold.
        inputs: what the model takes.
        device: where the model is.
        batch_size: images in one forward pass.
        workers: processes that decode images.
    """
    model.eval()
    loader = make_loader(ShardDataset(images, inputs), batch_size=batch_size, shuffle=False, seed=0, workers=workers)
    for batch in track(loader, description=f"segmenter's masks of {images.name}", unit="batch"):
        picture = batch["image"].to(device)
        both = model(picture).float(), model(picture.flip(-1)).float().flip(-1)
        for row, (index, size) in enumerate(zip(batch["index"].tolist(), batch["size"].tolist(), strict=True)):
            mask, confidence = _winner([logits[row] for logits in both], values[index], size=(size[0], size[1]))
            yield OwnMask(index, mask, confidence)


def _winner(
    logits: Sequence[Tensor], values: NDArray[np.bool_], *, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The likeliest of the allowed values of each pixel and 255 times its probability among them, both (H, W).

    Args:
        logits: several readings of one image, (K, h, w) each.
        values: (K,) which values are allowed.
        size: height and width of the stored image.
    """
    allowed = torch.from_numpy(values.nonzero()[0])
    if not len(allowed):
        return np.full(size, IGNORE, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
    chosen = allowed.to(logits[0].device)
    shares = torch.stack([reading[chosen].softmax(dim=0) for reading in logits]).mean(dim=0)
    native = interpolate(shares[None], size=size, mode="bilinear", align_corners=False)[0]
    share, winner = (tensor.cpu() for tensor in native.max(dim=0))
    return allowed[winner].to(torch.uint8).numpy(), (255 * share).round().clamp(max=255).to(torch.uint8).numpy()


def _values(images: Split, candidates: Split, classes: ClassTable) -> NDArray[np.bool_]:
    """The mask values that each image's mask may hold, (N, K): none where no class is a candidate."""
    labels = candidates.labels[[candidates.index_of(key) for key in images.keys]]
    values = np.zeros((len(images), len(classes.names)), dtype=bool)
    values[:, list(classes.tokens)] = labels
    if classes.background is not None:
        values[:, classes.background] = labels.any(axis=1)
    return values
