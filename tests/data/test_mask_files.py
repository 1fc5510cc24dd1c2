"""Mask files: what is written is read again, and a disk that does not take it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctm.data.classes import ClassTable
from ctm.data.mask_files import write_mask_geotiff
from ctm.errors import StorageError

rasterio = pytest.importorskip("rasterio", reason="needs the extra 'data'")

CLASSES = ClassTable(tuple("abcdefgh"))
TILED = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 8, size=size, dtype=np.uint8)


@pytest.mark.parametrize("layout", [TILED, {"compress": "lzw"}], ids=["tiled", "rows"])
@pytest.mark.parametrize("room", ["100k", "280k", "380k", "396k", "400k"])
def test_a_full_disk_is_an_error_that_names_the_file(small_disk: Callable[[str], Path], layout: Any, room: str):
    mask, path = noise((1024, 1024)), small_disk(room) / ".scene.tif.partial"  # 411 KB or more
    with pytest.raises(StorageError, match=r"^masks/scene\.tif cannot be written \(.*\): make room and run") as raised:
        write_mask_geotiff(path, [mask], mask.shape, CLASSES, shown=Path("masks/scene.tif"), **layout, **PLACE)
    assert "partial" not in str(raised.value)


@pytest.mark.parametrize("layout", [TILED, {"compress": "lzw"}], ids=["tiled", "rows"])
def test_bands_of_any_heights_become_the_mask_and_blocks_are_written_once(tmp_path: Path, layout: Any):
    mask = noise((1000, 300))
    bands = np.split(mask, [1, 60, 250, 260, 700, 999])
    for name, given in (("bands", bands), ("whole", [mask])):
        path = tmp_path / f"{name}.tif"
        write_mask_geotiff(path, given, mask.shape, CLASSES, shown=path, **layout, **PLACE)
    with rasterio.open(tmp_path / "bands.tif") as file:
        np.testing.assert_array_equal(file.read(1), mask)
    sizes = [(tmp_path / f"{name}.tif").stat().st_size for name in ("bands", "whole")]
    assert sizes[0] == sizes[1]  # a block that is compressed again leaves its first bytes behind
