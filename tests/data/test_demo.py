"""The synthetic data set: true layout, same bytes, wanted statistics, whole or nothing."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ctm.data.config import DatasetConfig
from ctm.data.datasets.demo import DFC_IDS, MARKER, write_demo, write_demo_scene
from ctm.errors import ArtifactError, DataError
from tests.miniatures.samples import opened, read

rasterio = pytest.importorskip("rasterio", reason="needs the extra 'data'")

CONFIG = DatasetConfig(format="dfc2020", root="raw", min_label_fraction=0.1)


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "raw"
    write_demo(root, train=60, val=5, size=32)
    return root


def scenes(root: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Image (15, H, W) in 0..1 and land-cover ids (H, W) of the train scenes."""
    season = root / "ROIs0000_test"
    for patch in itertools.count():
        paths = [season / f"{sensor}_0" / f"ROIs0000_test_{sensor}_0_p{patch}.tif" for sensor in ("s2", "s1", "dfc")]
        if not paths[0].exists():
            return
        rasters = []
        for path in paths:
            with rasterio.open(path) as raster:
                rasters.append(raster.read())
        yield np.concatenate([rasters[0] / 10000, (rasters[1] + 25) / 25]), rasters[2][0]


def test_files_are_geotiffs_in_the_layout_of_dfc2020(demo: Path) -> None:
    for name, bands, kind in [
        ("ROIs0000_test/s2_0/ROIs0000_test_s2_0_p59.tif", 13, "uint16"),
        ("ROIs0000_validation/s1_validation/ROIs0000_validation_s1_0_p4.tif", 2, "float64"),
        ("ROIs0000_validation/dfc_validation/ROIs0000_validation_dfc_0_p0.tif", 1, "uint8"),
    ]:
        with rasterio.open(demo / name) as raster:
            assert raster.driver == "GTiff"
            assert (raster.count, raster.dtypes[0], raster.shape) == (bands, kind, (32, 32))
            assert raster.crs.to_epsg() == 32632
            assert raster.res == (10.0, 10.0)


def test_scenes_do_not_lie_on_each_other(demo: Path) -> None:
    bounds = set()
    for path in demo.rglob("*_s2_0_*.tif"):
        with rasterio.open(path) as raster:
            bounds.add(tuple(raster.bounds))
    assert len(bounds) == 65


def test_the_reader_of_dfc2020_reads_it(demo: Path) -> None:
    dataset = opened(CONFIG, demo)
    assert {name: len(entries) for name, entries in dataset.splits.items()} == {"train": 60, "val": 5}
    assert not dataset.problems
    sample = read(CONFIG, demo, "train", "ROIs0000_test_p0")
    assert sample.notes == ()
    assert sample.georeference is not None
    assert sample.mask is not None
    assert set(np.unique(sample.mask).tolist()) <= set(range(8))
    assert sample.labels


def test_statistics_are_the_documented_ones(demo: Path) -> None:
    numbers: list[int] = []
    ids: set[int] = set()
    noise = []
    for image, classes in scenes(demo):
        present = np.unique(classes)
        numbers.append(len(present))
        ids.update(present.tolist())
        assert image.min() >= 0
        assert image.max() <= 1
        if len(present) == 1:
            noise.append(image.std(axis=(1, 2)))  # texture and noise around gain times signature
    assert set(numbers) == {1, 2, 3, 4}
    assert 1.9 < np.mean(numbers) < 3.1
    assert ids == set(DFC_IDS.tolist()) == {1, 2, 4, 5, 6, 7, 9, 10}
    assert 0.09 < np.mean(noise) < 0.16
    smooth = [np.mean(classes[:, 1:] == classes[:, :-1]) for _, classes in scenes(demo)]
    assert np.mean(smooth) > 0.9, "regions, not salt and pepper"


def spectra(root: Path, *, least: int) -> dict[int, list[np.ndarray]]:
    """The mean spectrum of each class in each scene where it covers so many pixels."""
    found: dict[int, list[np.ndarray]] = {}
    for image, classes in scenes(root):
        for value, count in zip(*np.unique(classes, return_counts=True), strict=True):
            if count >= least:
                found.setdefault(int(value), []).append(image[:, classes == value].mean(axis=1))
    return found


def test_one_signature_a_class_in_all_scenes(demo: Path) -> None:
    found = spectra(demo, least=51)
    means = {value: np.mean(ones, axis=0) for value, ones in found.items()}
    for value, ones in found.items():
        for spectrum in ones:
            assert min(means, key=lambda other, one=spectrum: float(np.abs(means[other] - one).sum())) == value


def test_gain_changes_a_class_by_up_to_30_percent_a_band_between_scenes(demo: Path) -> None:
    spread = [(np.std(ones, axis=0) / np.mean(ones, axis=0)).mean() for ones in spectra(demo, least=1).values()]
    assert np.mean(spread) == pytest.approx(0.3 / np.sqrt(3), rel=0.2)  # deviation of a uniform factor of 0.7..1.3


def test_texture_brightens_and_darkens_all_bands_of_a_pixel_together(demo: Path) -> None:
    plain = [image.reshape(15, -1) for image, classes in scenes(demo) if len(np.unique(classes)) == 1]
    correlations = [np.corrcoef(pixels)[np.triu_indices(15, k=1)].mean() for pixels in plain]
    assert 0.04 < np.mean(correlations) < 0.2  # noise of a band its own would give 0


def test_same_settings_give_the_same_bytes_and_another_seed_others(demo: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "again", train=60, val=5, size=32)
    assert digest(tmp_path / "again") == digest(demo)
    write_demo(tmp_path / "other", train=60, val=5, size=32, seed=1)
    first = "ROIs0000_test/s2_0/ROIs0000_test_s2_0_p0.tif"
    assert digest(tmp_path / "other")[first] != digest(demo)[first]


def test_first_scenes_do_not_depend_on_how_many_follow(demo: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "few", train=2, val=1, size=32)
    whole = digest(demo)
    few = digest(tmp_path / "few")
    del few[MARKER]
    assert len(few) == 9
    assert all(whole[name] == value for name, value in few.items())


def test_a_complete_demo_is_left_alone_and_another_replaced(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    write_demo(root, train=2, val=1, size=16)
    before = (root / MARKER).stat().st_mtime_ns
    write_demo(root, train=2, val=1, size=16)
    assert (root / MARKER).stat().st_mtime_ns == before
    write_demo(root, train=1, val=1, size=16)
    assert len(list(root.rglob("*_s2_0_*.tif"))) == 2


def test_foreign_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="no demo data set; choose another folder"):
        write_demo(tmp_path, train=1, val=1, size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match="negative"):
        write_demo(tmp_path / "old", train=1, val=1, size=16, seed=-1)
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_the_large_scene_has_the_bands_and_all_the_land_cover_of_the_demo(demo: Path, tmp_path: Path) -> None:
    write_demo_scene(tmp_path / "scene.tif", size=256)
    with rasterio.open(tmp_path / "scene.tif") as raster:
        assert (raster.count, raster.dtypes[0], raster.shape) == (15, "float32", (256, 256))
        scene = raster.read()
    scene[:13] /= 10000
    scene[13:] = (scene[13:] + 25) / 25
    images, truths = zip(*scenes(demo), strict=True)
    pixels, ids = np.stack(images, 1).reshape(15, -1), np.stack(truths).ravel()
    spectra = np.stack([pixels[:, ids == land_cover].mean(1) for land_cover in DFC_IDS])  # (8, 15)
    distances = np.square(scene.reshape(15, 1, -1) - spectra.T[:, :, None]).mean(0)  # (8, pixels)
    assert np.bincount(distances.argmin(0), minlength=8).min() > 0.01 * distances.shape[1]
    assert distances.min(0).mean() < 0.4 * distances.mean()


def test_a_scene_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ArtifactError, match="is a folder, which a file would replace: name a file"):
        write_demo_scene(tmp_path, size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
