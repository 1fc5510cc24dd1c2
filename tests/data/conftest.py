"""Miniature raw data sets in their true layouts, made by code."""

from __future__ import annotations

import warnings
from collections.abc import Callable
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


SUFFIXES = {"train": "0", "val": "validation"}
SEASONS = {"train": "ROIs0000_test", "val": "ROIs0000_validation"}


@pytest.fixture
def dfc2020(tmp_path: Path) -> Callable[..., Path]:
    """Makes DFC2020 with two patches a season: `dfc2020(suffixes)` chooses the spelling of the sensors' folders.

    The patches have Sentinel-2 above 10000, Sentinel-1 of -40, 3 and NaN dB, and the ignored ids 0, 3 and 8.
    """
    rasterio = pytest.importorskip("rasterio", reason="needs the extra 'geo'")

    def write(path: Path, raster: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        bands, height, width = raster.shape
        profile = {"count": bands, "height": height, "width": width, "dtype": raster.dtype.name}
        place = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
        with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32632", transform=place, **profile) as file:
            file.write(raster)

    def make(suffixes: dict[str, str] = SUFFIXES, *, root: Path = tmp_path / "dfc2020") -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for split, season in SEASONS.items():
                for patch in (2, 10):
                    rng = np.random.default_rng(patch)
                    s2 = rng.integers(0, 9000, size=(13, 10, 10), dtype=np.uint16)
                    s2[3, 0, 0] = 12345
                    s1 = rng.uniform(-24, -1, size=(2, 10, 10))
                    s1[0, 0, :3] = (-40, 3, np.nan)
                    dfc = np.full((1, 10, 10), 10, dtype=np.int32)  # water
                    dfc[0, 0] = 5  # wetlands cover 10 of 100 pixels
                    dfc[0, 1, :9] = 1  # forest covers 9
                    dfc[0, 2, :3] = (0, 3, 8)
                    for sensor, raster in {"s2": s2, "s1": s1, "dfc": dfc}.items():
                        name = f"{season}_{sensor}_0_p{patch}.tif"
                        write(root / season / f"{sensor}_{suffixes[split]}" / name, raster)
        return root

    return make
