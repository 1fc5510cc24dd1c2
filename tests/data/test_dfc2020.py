"""DFC2020: both spellings of its folders, band order and scaling, the label rule, its place on Earth, and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ctm.data.config import DatasetConfig
from ctm.data.sample import decode_image
from tests.miniatures.dfc2020 import IDS, NUMBERS, SIZE, patch_rasters, write_dfc2020, write_raster
from tests.miniatures.samples import keys, opened, read, read_all

rasterio = pytest.importorskip("rasterio", reason="needs the extra 'data'")

CONFIG = DatasetConfig(format="dfc2020", root="raw", min_label_fraction=0.1)
P2 = "ROIs0000_test_p2"
GRASSLAND, WETLANDS, WATER = 2, 3, 7
TEST = "ROIs0000_test"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_dfc2020(tmp_path / "raw")
    return tmp_path / "raw"


def raster(root: Path, sensor: str, *, patch: int = 2) -> Path:
    return root / TEST / f"{sensor}_0" / f"{TEST}_{sensor}_0_p{patch}.tif"


@pytest.mark.parametrize("val", ["validation", "0"])
def test_both_folder_spellings_give_the_same_patches(tmp_path: Path, val: str) -> None:
    write_dfc2020(tmp_path, suffixes={"train": "0", "val": val})
    dataset = opened(CONFIG, tmp_path)
    assert keys(dataset) == {
        "train": [f"ROIs0000_test_p{number}" for number in NUMBERS["train"]],
        "val": [f"ROIs0000_validation_p{number}" for number in NUMBERS["val"]],
    }
    assert (dataset.channels, dataset.scale, dataset.problems, dataset.left_out) == (15, 1e-4, (), {})
    assert all(set(entry.files) == {"s2", "s1", "dfc"} for entry in dataset.splits["val"]), "lc is not read"
    assert len(read_all(CONFIG, tmp_path)) == 9


@pytest.mark.parametrize("nested", [TEST, "../DFC_Public_Dataset", "../a/b"])
def test_folders_nested_by_zip_files_are_found(raw: Path, tmp_path: Path, nested: str) -> None:
    if nested == TEST:
        (raw / TEST).rename(raw / "inner")
        (raw / TEST).mkdir()
        (raw / "inner").rename(raw / TEST / TEST)
    else:
        raw.rename(tmp_path / "inner")
        target = raw / nested.removeprefix("../")
        target.parent.mkdir(parents=True)
        (tmp_path / "inner").rename(target)
    assert len(opened(CONFIG, raw).splits["train"]) == 6


def test_image_is_sentinel_2_then_sentinel_1_in_16_bits(raw: Path) -> None:
    sample = read(CONFIG, raw, "train", P2)
    image = decode_image(sample.image, sample.extension)
    assert (image.shape, image.dtype, sample.extension) == ((15, SIZE, SIZE), np.uint16, "npy")
    rasters = patch_rasters(2)
    assert rasters["s2"][3, 0, 0] == 12345
    np.testing.assert_array_equal(image[:13], np.minimum(rasters["s2"], 10000))
    assert image[13, 0, :3].tolist() == [0, 10000, 0], "-40 dB, 3 dB and no value"
    np.testing.assert_allclose(image[14] * 1e-4 * 25 - 25, rasters["s1"][1], atol=25 * 0.51e-4)


def test_what_was_mended_is_noted(raw: Path) -> None:
    assert read(CONFIG, raw, "train", P2).notes == (
        "reflectance outside 0..10000, clipped",
        "pixels without backscatter (NaN), taken as the darkest",
        "backscatter outside -25..0 dB, clipped",
    )
    write_raster(raster(raw, "s2"), np.full((13, SIZE, SIZE), 5000, dtype=np.uint16), place=(2 * SIZE, 0))
    write_raster(raster(raw, "s1"), np.full((2, SIZE, SIZE), -12.5), place=(2 * SIZE, 0))
    assert read(CONFIG, raw, "train", P2).notes == ()


def test_the_files_nodata_values_are_no_measurements(raw: Path) -> None:
    for sensor, kind, value, nodata in [("s2", "uint16", 5000, 65535), ("s1", "float32", -12.5, -9999)]:
        bands = {"s2": 13, "s1": 2}[sensor]
        array = np.full((bands, SIZE, SIZE), value, dtype=kind)
        array[:, 0, 0] = nodata
        write_raster(raster(raw, sensor), array, place=(2 * SIZE, 0), nodata=nodata)
    sample = read(CONFIG, raw, "train", P2)
    image = decode_image(sample.image, "npy")
    assert not image[:, 0, 0].any()
    assert (image[:, 0, 1] == 5000).all()
    assert sample.notes == (
        "pixels without reflectance (nodata), taken as 0",
        "pixels without backscatter (NaN), taken as the darkest",
    )


def test_scaling_by_the_images_own_maximum_is_the_release_of_the_paper(raw: Path) -> None:
    config = CONFIG.model_copy(update={"scaling": "image_max"})
    rasters = patch_rasters(2)
    rasters["s2"][3, 0, 0] = 100
    rasters["s1"][0, 0, :3] = -20
    for sensor in ("s2", "s1"):
        write_raster(raster(raw, sensor), rasters[sensor], place=(2 * SIZE, 0))
    assert opened(config, raw).scale == 1e-4
    image = decode_image(read(config, raw, "train", P2).image, "npy")
    assert image.dtype == np.uint16
    s2 = np.clip(rasters["s2"], 0, 10000).astype(float)
    s1 = np.clip(rasters["s1"], -25, 0) + 25
    np.testing.assert_allclose(image[:13] * 1e-4, s2 / s2.max(), atol=0.51e-4)
    np.testing.assert_allclose(image[13:] * 1e-4, s1 / s1.max(), atol=0.51e-4)
    assert image[:13].max() == image[13:].max() == 10000


def test_an_image_of_zeros_has_no_maximum_to_divide_by(raw: Path) -> None:
    write_raster(raster(raw, "s2"), np.zeros((13, SIZE, SIZE), dtype=np.uint16), place=(2 * SIZE, 0))
    write_raster(raster(raw, "s1"), np.full((2, SIZE, SIZE), -30.0), place=(2 * SIZE, 0))
    config = CONFIG.model_copy(update={"scaling": "image_max"})
    assert not decode_image(read(config, raw, "train", P2).image, "npy").any()


def test_mask_has_train_ids_and_ignores_no_data_savanna_and_snow(raw: Path) -> None:
    for patch, value in zip(NUMBERS["val"], [GRASSLAND, GRASSLAND, WETLANDS], strict=True):
        mask = read(CONFIG, raw, "val", f"ROIs0000_validation_p{patch}").mask
        assert mask is not None
        assert mask[3, :4].tolist() == [255, 255, 255, value]
        assert mask[0].tolist() == [WETLANDS] * SIZE
        assert mask[-1, -1] == WATER
    assert IDS[2] == IDS[10 % 8] == 4


@pytest.mark.parametrize(
    ("fraction", "labels"),
    [
        (0.1, (GRASSLAND, WATER)),
        (57 / 576, (GRASSLAND, WETLANDS, WATER)),
        (0.44, (WATER,)),
        (0.0, (GRASSLAND, WETLANDS, WATER)),
    ],
)
def test_a_class_is_present_from_the_given_share_of_all_pixels(
    raw: Path, fraction: float, labels: tuple[int, ...]
) -> None:
    config = CONFIG.model_copy(update={"min_label_fraction": fraction})
    assert read(config, raw, "train", P2).labels == labels


def test_a_raster_without_georeference_is_read_in_silence(raw: Path, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write_raster(raster(raw, "s2"), patch_rasters(2)["s2"], place=None)
    recwarn.clear()
    assert read(CONFIG, raw, "train", P2).georeference is None
    assert len(recwarn) == 0


def test_no_data_in_the_land_cover_is_ignored(raw: Path) -> None:
    dfc = np.full((1, SIZE, SIZE), 10, dtype=np.uint8)
    dfc[0, 0] = 255
    write_raster(raster(raw, "dfc"), dfc, place=(2 * SIZE, 0), nodata=255)
    mask = read(CONFIG, raw, "train", P2).mask
    assert mask is not None
    assert (mask[0] == 255).all()
    assert (mask[1:] == WATER).all()


def test_without_rasterio_photographs_work_and_geotiffs_say_what_to_install(folder: Path) -> None:
    code = f"""
import sys
sys.modules["rasterio"] = None  # what "not installed" looks like to an import
from ctm.data.config import DatasetConfig
from ctm.data.datasets import open_dataset
from ctm.errors import DataError
from ctm.runtime.storage import open_tree
tree = open_tree({str(folder)!r})
assert len(open_dataset(DatasetConfig(format="folder", root="x"), tree).splits["train"]) == 3
try:
    open_dataset(DatasetConfig(format="dfc2020", root="x"), tree)
except DataError as error:
    assert "pip install 'ctm[data]'" in str(error), error
else:
    raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
