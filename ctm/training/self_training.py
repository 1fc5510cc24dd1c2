"""Self-training: a trained segmenter's masks of the train images, of their own classes only, teach a fresh one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

__all__ = ["number_rows", "write_own_masks"]


def number_rows(history: Sequence[Mapping[str, Any]], number: int) -> list[dict[str, Any]]:
    """The rows of a round with its number, their epochs counted on from those of the rounds before it."""
    before = number * len(history)
    return [{**row, "epoch": before + row["epoch"], "round": number} for row in history]


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
    """Writes a segmenter's masks of all images, and how sure they are, as shards that an interrupted run finds again.

    A mask is the mean over the image and its mirror image, then the largest of the allowed values; 255 everywhere where
    no class is a candidate. The confidence is 255 times the probability of the pixel's class among the candidates.

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
    if (folder / INDEX).is_file():
        return
    remove(folder)
    values = _values(images, candidates, classes)
    loader = make_loader(ShardDataset(images, inputs), batch_size=batch_size, shuffle=False, seed=0, workers=workers)
    with ShardWriter(folder, images.name, classes=classes) as writer, torch.inference_mode():
        model.eval()
        for batch in track(loader, description=f"segmenter's masks of {images.name}", unit="batch"):
            picture = batch["image"].to(device)
            both = model(picture).float(), model(picture.flip(-1)).float().flip(-1)
            for row, index in enumerate(batch["index"].tolist()):
                height, width = batch["size"][row].tolist()
                mask, confidence = _winner([logits[row] for logits in both], values[index], size=(height, width))
                members = {"png": encode_mask(mask), CONFIDENCE: encode_mask(confidence)}
                writer.add(images.keys[index], members, labels=(), height=height, width=width)
    splits = {images.name: writer.entry}
    write_index(folder, ShardIndex(kind="masks", classes=classes.names, background=classes.background, splits=splits))


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
