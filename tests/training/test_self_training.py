"""Rounds of self-training: masks of the image's own classes, no round in another's way, resumed to the same bytes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.sample import encode_mask
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import ShardFolder
from ctm.training.self_training import write_own_masks

Train = Callable[..., tuple[bytes, Any]]

TINY = {
    "arch": "vit",
    "encoder": "test_vit",
    "options": {"depth": 1, "embed_dim": 16, "num_heads": 2, "patch_size": 8, "decoder_channels": 8},
    "lr": 0.01,
}


def write_candidates(
    shards: ShardFolder, folder: Path, labels: Callable[[int], tuple[int, ...]], *, background: int | None = None
) -> ShardFolder:
    """Pseudo-masks of stripes of an image's candidates, most of which are sure."""
    classes = ClassTable(shards.classes.names, background)
    entries = {}
    for split in map(shards.split, shards.splits):
        with ShardWriter(folder, split.name, classes=classes) as writer:
            for index, (key, (height, width)) in enumerate(zip(split.keys, split.sizes.tolist(), strict=True)):
                found = labels(index)
                mask = np.resize(np.array(found or [255], dtype=np.uint8), (width, height)).T.copy()
                confidence = np.full_like(mask, 200)
                confidence[:4] = 100
                members = {"png": encode_mask(mask), "confidence": encode_mask(confidence)}
                writer.add(key, members, labels=found, height=height, width=width)
        entries[split.name] = writer.entry
    write_index(folder, ShardIndex(kind="masks", classes=classes.names, background=background, splits=entries))
    return ShardFolder.open(folder)


@pytest.fixture
def masks(tiny_shards: ShardFolder, tmp_path: Path) -> ShardFolder:
    return write_candidates(tiny_shards, tmp_path / "masks", lambda index: (index % 8, (index + 3) % 8))


@pytest.fixture
def train(train: Train) -> Train:
    """Trains a tiny segmenter with two rounds of self-training, unless it is told otherwise."""
    return partial(train, **TINY, self_training=2)


class Bands(nn.Module):
    """Logit k of a pixel is its band k."""

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images[:, :8]


def own(shards: ShardFolder, candidates: ShardFolder, folder: Path) -> ShardFolder:
    split = shards.split("train")
    write_own_masks(
        folder,
        Bands(),
        split,
        candidates.split("train"),
        InputSpec((16, 16), shards.channels, shards.scale, shards.mean, shards.std),
        classes=candidates.classes,
        device=torch.device("cpu"),
        batch_size=5,
        workers=0,
    )
    return ShardFolder.open(folder)


def test_a_mask_holds_its_images_candidates_alone(tiny_shards, masks, tmp_path):
    written = own(tiny_shards, masks, tmp_path / "own").split("train")
    assert written.keys == tiny_shards.split("train").keys
    assert len(written) == 24
    for index in range(24):
        mask, confidence = written.mask(index, "png"), written.mask(index, "confidence")
        assert mask.shape == confidence.shape == (32, 32)
        assert set(np.unique(mask)) <= {index % 8, (index + 3) % 8}
        assert confidence.min() >= 127  # the likelier of two
    assert any(len(np.unique(written.mask(index, "png"))) == 2 for index in range(24))


def test_candidates_are_joined_by_key(tiny_shards, tmp_path):
    masks = write_candidates(tiny_shards, tmp_path / "masks", lambda index: (index % 8,))
    turned = tmp_path / "turned"
    split = masks.split("train")
    with ShardWriter(turned, "train", classes=masks.classes) as writer:
        for index in reversed(range(24)):
            writer.add(split.keys[index], {"png": split.read(index, "png")}, labels=(index % 8,), height=32, width=32)
    write_index(turned, masks.index.model_copy(update={"splits": {"train": writer.entry}}))
    written = own(tiny_shards, ShardFolder.open(turned), tmp_path / "own").split("train")
    assert all(np.unique(written.mask(index, "png")).tolist() == [index % 8] for index in range(24))


def test_the_background_is_always_a_candidate_but_where_there_is_no_other(masks, tiny_shards, tmp_path):
    def labels(index: int) -> tuple[int, ...]:
        return () if index == 0 else (1 + index % 7,)

    candidates = write_candidates(tiny_shards, tmp_path / "masks", labels, background=0)
    written = own(tiny_shards, candidates, tmp_path / "own").split("train")
    assert (written.mask(0, "png") == 255).all()
    assert not written.mask(0, "confidence").any()
    values = [set(np.unique(written.mask(index, "png")).tolist()) for index in range(1, 24)]
    assert all(found <= {0, 1 + index % 7} for index, found in enumerate(values, start=1))
    assert any(0 in found for found in values)


def test_masks_that_are_complete_are_taken_as_they_are_and_others_made_anew(tiny_shards, masks, tmp_path):
    own(tiny_shards, masks, tmp_path / "own")
    files = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    inodes = {path.stat().st_ino for path in (tmp_path / "own").iterdir()}
    own(tiny_shards, masks, tmp_path / "own")
    assert {path.stat().st_ino for path in (tmp_path / "own").iterdir()} == inodes
    (tmp_path / "own" / "index.json").unlink()
    (tmp_path / "own" / "train-00000.tar").write_bytes(b"broken off")
    own(tiny_shards, masks, tmp_path / "own")
    assert {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()} == files


def test_the_history_counts_its_epochs_through_all_rounds(train):
    _, history = train()
    assert [(row["round"], row["epoch"]) for row in history] == [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)]
    assert list(history[0]) == ["epoch", "train_loss", "val_pseudo_miou", "lr", "round"]


def test_a_round_learns_something_else_than_the_first(train):
    weights = [train(f"{n}", self_training=n, epochs=1, warmup_epochs=0)[0] for n in range(3)]
    assert len(set(weights)) == 3


ROUND = 6
"""Steps of a round: 24 images, batches of 8, two epochs."""


@pytest.mark.parametrize("settings", [{}, {"keep": "best"}, {"min_confidence": 0.6}], ids=["last", "best", "confident"])
def test_an_interrupted_run_ends_in_the_bytes_of_an_undisturbed_one(power_cut, train, masks, tmp_path, settings):
    undisturbed = train("a", **settings)
    for step in (ROUND - 1, ROUND + 1, ROUND + 1):  # from each start: the second epochs of rounds 0, 1 and 2
        with power_cut(step=step):
            train("b", **settings)
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "masks-1")  # as on a machine that has lost its disk
    assert train("b", **settings) == undisturbed


def test_a_finished_round_is_not_trained_again(power_cut, train):
    with power_cut(step=2 * ROUND + 1):
        train()
    steps = itertools.count()
    hook = register_optimizer_step_post_hook(lambda *_: next(steps) and None)
    try:
        train()
    finally:
        hook.remove()
    assert next(steps) == ROUND


def test_a_run_that_starts_anew_forgets_every_round(train, tiny_shards, tmp_path):
    other = write_candidates(tiny_shards, tmp_path / "others", lambda index: (index % 8,))
    expected = train("a")
    train("b", masks=other)
    assert train("b", resume=False) == expected
