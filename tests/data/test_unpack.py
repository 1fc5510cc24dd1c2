"""Masks as palette PNG files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctm.data.config import DatasetConfig
from ctm.data.datasets import open_dataset
from ctm.data.pack import write_dataset_shards
from ctm.data.sample import encode_mask
from ctm.data.shards import ShardFolder, ShardIndex, ShardWriter, write_index
from ctm.data.unpack import write_palette_pngs
from ctm.errors import ArtifactError


def test_writes_one_palette_png_for_every_mask(shards: ShardFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write_palette_pngs(shards.path, out) == 4
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == [
        "train/a.png",
        "train/b.png",
        "train/c.png",
        "val/d.png",
    ]
    with Image.open(out / "train" / "b.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), shards.split("train").mask(2, "mask.png"))
        colours = np.array(image.getpalette()).reshape(-1, 3)
        np.testing.assert_array_equal(colours, shards.classes.palette()[: len(colours)])
        assert image.convert("RGB").getpixel((0, 0)) == (224, 224, 192)


def test_writes_pseudomasks(shards: ShardFolder, tmp_path: Path) -> None:
    mask = np.array([[0, 2], [255, 1]], dtype=np.uint8)
    with ShardWriter(tmp_path / "pseudo", "train", classes=shards.classes) as writer:
        writer.add("a", {"png": encode_mask(mask)}, labels=(0,), height=2, width=2)
    index = ShardIndex(kind="masks", classes=shards.classes.names, background=None, splits={"train": writer.entry})
    write_index(tmp_path / "pseudo", index)
    assert write_palette_pngs(tmp_path / "pseudo", tmp_path / "out") == 1
    with Image.open(tmp_path / "out" / "train" / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), mask)


def test_data_without_masks_say_so(folder: Path, config: DatasetConfig, tmp_path: Path) -> None:
    shutil.rmtree(folder / "masks")
    write_dataset_shards(open_dataset(config, folder), tmp_path / "plain", normalise="none", shard_mb=1)
    with pytest.raises(ArtifactError, match=r"no sample of .*plain has a mask"):
        write_palette_pngs(tmp_path / "plain", tmp_path / "out")


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"index.json is missing"):
        write_palette_pngs(tmp_path, tmp_path / "out")
