"""Segmenters on disk, and rasters for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.models.segmenter import SegmenterSpec, build_segmenter, save_segmenter

CLASSES = ClassTable(("grass", "sand", "sea"))
UNET = SegmenterSpec("unet", "resnet18", {"encoder_depth": 3, "decoder_channels": [8, 8, 8]})
PHOTOGRAPHS = InputSpec((32, 32), 3, 1 / 255, (0.4, 0.5, 0.3), (0.2, 0.2, 0.3), values="bytes", stored_size=(24, 30))


@pytest.fixture(autouse=True)
def _tiny_work(one_thread) -> None:
    """All of these tests."""


@pytest.fixture
def segmenter(tmp_path: Path) -> Callable[..., Path]:
    """Writes a segmenter with random weights whose masks have several classes."""

    def written(inputs: InputSpec = PHOTOGRAPHS, *, spec: SegmenterSpec = UNET, name: str = "segmenter") -> Path:
        torch.manual_seed(3)
        model = build_segmenter(spec, inputs, num_classes=3)
        save_segmenter(tmp_path / name, model, spec, classes=CLASSES, inputs=inputs)
        return tmp_path / name

    return written


@pytest.fixture
def raster(tmp_path: Path) -> Callable[..., Path]:
    """Writes a GeoTIFF in UTM zone 32, of smooth noise unless its values are given."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra 'data'")

    def written(
        name: str = "scene.tif", values: np.ndarray | None = None, *, size: tuple[int, int] = (70, 90), **more: Any
    ) -> Path:
        array = smooth(3, size) if values is None else values
        shape = {"count": len(array), "height": array.shape[1], "width": array.shape[2], "dtype": array.dtype.name}
        place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with rasterio.open(path, "w", driver="GTiff", **shape, **{**place, **more}) as file:
            file.write(array)
        return path

    return written


def smooth(bands: int, size: tuple[int, int], *, seed: int = 0) -> np.ndarray:
    """Bands of 8 bits (bands, H, W) in which regions are some pixels large."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, size=(1, bands, size[0] // 6 + 2, size[1] // 6 + 2)))
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[0].numpy()
    pixels: np.ndarray = (fine + rng.normal(0, 4, size=fine.shape)).clip(0, 255).astype(np.uint8)
    return pixels
