"""DFC2020: both spellings of its folders, band order and scaling, the label rule, and errors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctm.data.config import DatasetConfig
from ctm.data.datasets import open_dataset
from ctm.data.datasets.reader import Reader
from ctm.data.sample import decode_image
from ctm.errors import DataError, ParamsError

CONFIG = DatasetConfig(format="dfc2020", root="raw", min_label_fraction=0.1)
WETLANDS, WATER, FOREST = 3, 7, 0


def read_all(reader: Reader) -> None:
    for split, keys in reader.splits().items():
        for key in keys:
            reader.read(split, key)


@pytest.mark.parametrize("val", ["validation", "0"])
def test_both_folder_spellings_give_the_same_patches(dfc2020: Callable[..., Path], val: str) -> None:
    reader = open_dataset(CONFIG, dfc2020({"train": "0", "val": val}))
    assert reader.splits() == {
        "train": ["ROIs0000_test_p2", "ROIs0000_test_p10"],
        "val": ["ROIs0000_validation_p2", "ROIs0000_validation_p10"],
    }
    read_all(reader)


@pytest.mark.parametrize("nested", ["ROIs0000_test", "../copy"])
def test_seasons_nested_by_zip_files_are_found(dfc2020: Callable[..., Path], tmp_path: Path, nested: str) -> None:
    root = dfc2020()
    if nested == "ROIs0000_test":
        (root / nested).rename(root / "inner")
        (root / nested).mkdir()
        (root / "inner").rename(root / nested / nested)
    else:
        root.rename(tmp_path / "inner")
        root.mkdir()
        (tmp_path / "inner").rename(root / "DFC_Public_Dataset")
    assert len(open_dataset(CONFIG, root).splits()["train"]) == 2


def test_image_is_sentinel_2_then_sentinel_1_in_16_bits(dfc2020: Callable[..., Path]) -> None:
    rasterio = pytest.importorskip("rasterio")
    root = dfc2020()
    sample = open_dataset(CONFIG, root).read("train", "ROIs0000_test_p10")
    image = decode_image(sample.image, sample.extension)
    assert (image.shape, image.dtype, sample.extension) == ((15, 10, 10), np.uint16, "npy")
    with rasterio.open(root / "ROIs0000_test" / "s2_0" / "ROIs0000_test_s2_0_p10.tif") as raster:
        s2 = raster.read()
    with rasterio.open(root / "ROIs0000_test" / "s1_0" / "ROIs0000_test_s1_0_p10.tif") as raster:
        s1 = raster.read()
    assert s2[3, 0, 0] == 12345
    np.testing.assert_array_equal(image[:13], np.minimum(s2, 10000))
    assert image[13, 0, :3].tolist() == [0, 10000, 0], "-40 dB, 3 dB and no value"
    np.testing.assert_allclose(image[14] * 1e-4 * 25 - 25, s1[1], atol=25 * 0.51e-4)


def test_mask_has_train_ids_and_ignores_no_data_savanna_and_snow(dfc2020: Callable[..., Path]) -> None:
    mask = open_dataset(CONFIG, dfc2020()).read("val", "ROIs0000_validation_p2").mask
    assert mask is not None
    assert mask[2, :4].tolist() == [255, 255, 255, WATER]
    assert mask[0].tolist() == [WETLANDS] * 10
    assert mask[1].tolist() == [FOREST] * 9 + [WATER]


@pytest.mark.parametrize(
    ("fraction", "labels"),
    [(0.1, (WETLANDS, WATER)), (0.09, (FOREST, WETLANDS, WATER)), (0.11, (WATER,)), (0.0, (FOREST, WETLANDS, WATER))],
)
def test_a_class_is_present_from_the_given_share_of_all_pixels(
    dfc2020: Callable[..., Path], fraction: float, labels: tuple[int, ...]
) -> None:
    config = CONFIG.model_copy(update={"min_label_fraction": fraction})
    assert open_dataset(config, dfc2020()).read("train", "ROIs0000_test_p2").labels == labels


def spoil_raster(path: Path, *, bands: int, size: int, value: int, dtype: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(path, "w", driver="GTiff", count=bands, height=size, width=size, dtype=dtype) as file:
        file.write(np.full((bands, size, size), value, dtype=dtype))


P2 = "ROIs0000_test_{0}_0_p2.tif"
BAD = {
    "no season": (lambda s: shutil.rmtree(s), "holds no folder ROIs0000_test"),
    "empty season": (lambda s: shutil.rmtree(s / "s2_0"), "ROIs0000_test is empty"),
    "no partner": (
        lambda s: (s / "dfc_0" / P2.format("dfc")).unlink(),
        "s2_0_p2.tif has no partner dfc_.*dfc_0_p2.tif",
    ),
    "patch twice": (lambda s: shutil.copytree(s / "s1_0", s / "s1_test"), "patch 10 lies twice"),
    "unreadable": (
        lambda s: (s / "s1_0" / P2.format("s1")).write_bytes(b"no tiff"),
        "s1_0_p2.tif is no readable raster",
    ),
    "bands": (
        lambda s: spoil_raster(s / "s2_0" / P2.format("s2"), bands=12, size=10, value=1, dtype="uint16"),
        "s2_0_p2.tif has 12 bands, expected 13",
    ),
    "size": (
        lambda s: spoil_raster(s / "s1_0" / P2.format("s1"), bands=2, size=9, value=-3, dtype="float64"),
        r"differ in size.*'s1': \(9, 9\)",
    ),
    "land cover": (
        lambda s: spoil_raster(s / "dfc_0" / P2.format("dfc"), bands=1, size=10, value=17, dtype="uint8"),
        r"land cover ids \[17\] are unknown",
    ),
    "reflectance": (
        lambda s: spoil_raster(s / "s2_0" / P2.format("s2"), bands=13, size=10, value=1, dtype="float32"),
        "holds float32 values; expected integers",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore:.*no geotransform")  # of the spoilt rasters when this test writes them
def test_bad_input_gives_one_clear_data_error(dfc2020: Callable[..., Path], case: str) -> None:
    root = dfc2020()
    spoil, message = BAD[case]
    spoil(root / "ROIs0000_test")
    with pytest.raises(DataError, match=message):
        read_all(open_dataset(CONFIG, root))


def test_rasters_without_georeference_are_read_in_silence(
    dfc2020: Callable[..., Path], recwarn: pytest.WarningsRecorder
) -> None:
    root = dfc2020()
    season = root / "ROIs0000_test"
    spoil_raster(season / "dfc_0" / P2.format("dfc"), bands=1, size=10, value=1, dtype="uint8")
    recwarn.clear()
    open_dataset(CONFIG, root).read("train", "ROIs0000_test_p2")
    assert len(recwarn) == 0


def test_contradicting_parameters_are_params_errors(dfc2020: Callable[..., Path]) -> None:
    root = dfc2020()
    with pytest.raises(ParamsError, match=r"dataset.channels is 3, but format 'dfc2020' has 15"):
        open_dataset(CONFIG.model_copy(update={"channels": 3}), root)
    with pytest.raises(ParamsError, match=r"dataset.classes has 1 names; DFC2020 has Forest, "):
        open_dataset(CONFIG.model_copy(update={"classes": ("x",)}), root)


def test_without_rasterio_the_folder_format_works_and_dfc2020_says_what_to_install(folder: Path) -> None:
    code = f"""
import sys
sys.modules["rasterio"] = None  # what "not installed" looks like to an import
from pathlib import Path
from ctm.data.config import DatasetConfig
from ctm.data.datasets import open_dataset
from ctm.errors import DataError
root = Path({str(folder)!r})
assert len(open_dataset(DatasetConfig(format="folder", root="x"), root).splits()["train"]) == 3
try:
    open_dataset(DatasetConfig(format="dfc2020", root="x"), root)
except DataError as error:
    assert "pip install 'ctm[geo]'" in str(error), error
else:
    raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
