"""Miniature raw data sets in their true layouts, made by code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctm.data.config import DatasetConfig
from ctm.data.shards import ShardFolder
from tests.miniatures.samples import packed

SIZES = {"a": (20, 30), "b": (24, 24), "c": (30, 20), "d": (16, 40), "e": (20, 20)}
"""Height and width of the photographs."""


def photograph(path: Path, size: tuple[int, int], *, seed: int) -> None:
    """A coloured picture with structure, so that no two are alike and JPEG keeps something."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)


def palette_mask(path: Path, mask: np.ndarray) -> None:
    """A palette PNG whose indices are the values."""
    image = Image.fromarray(mask)
    image.putpalette([value % 256 for value in range(7, 7 + 768)])
    image.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five photographs of three classes, four with masks; `sky` occurs in one mask only."""
    root = tmp_path / "raw"
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True)
    for number, (key, size) in enumerate(SIZES.items()):
        photograph(root / "images" / f"{key}.{'png' if key == 'c' else 'jpg'}", size, seed=number)
        mask = np.zeros(size, dtype=np.uint8)
        mask[:, : size[1] // 2] = 1
        mask[0, 0] = 255
        if key == "b":
            mask[-4:] = 2
        if key != "e":
            palette_mask(root / "masks" / f"{key}.png", mask)
    (root / "classes.txt").write_text("grass\ncow\nsky\n")
    (root / "labels.csv").write_text("image,classes\na,grass;cow\nb.jpg,cow; sky;grass\nc,cow\nd,grass\ne,sky\n")
    (root / "splits" / "train.txt").write_text("c\na\nb.jpg\n")
    (root / "splits" / "val.txt").write_text("d\ne")
    return root


@pytest.fixture
def config() -> DatasetConfig:
    """The folder format with its defaults."""
    return DatasetConfig(format="folder", root="raw")


@pytest.fixture
def shards(folder: Path, config: DatasetConfig, tmp_path: Path) -> ShardFolder:
    """The photographs as shards."""
    packed(config, folder, tmp_path / "shards")
    return ShardFolder.open(tmp_path / "shards")
