"""Masks of new images: those of photographs are what evaluate computes, those of GeoTIFFs lie where the images do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ctm.data.config import DatasetConfig
from ctm.data.inputs import InputSpec
from ctm.data.shards import ShardFolder
from ctm.errors import ArtifactError, DataError, StorageError
from ctm.evaluation.scoring import segment
from ctm.models.segmenter import load_segmenter
from ctm.predict.images import find_images
from ctm.predict.mask_folder import RECORD
from ctm.predict.masks import predict_masks
from ctm.predict.network import Network, load_network
from tests.conftest import TinyPipeline
from tests.miniatures.folder import write_folder
from tests.miniatures.samples import packed
from tests.predict.conftest import CLASSES, PHOTOGRAPHS, smooth

CPU = torch.device("cpu")


def predicted(model: Path, out: Path, *places: Path, tile: int | None = None, batch_size: int = 4) -> dict[str, Any]:
    """The masks that are written, by the files' names."""
    network = load_network(model, device=CPU, batch_size=batch_size)
    found = find_images(places, network.inputs)
    assert predict_masks(found, network, out, tile=tile) == len(found)
    return {path.name: read(path) for path in sorted(out.glob("[!.]*"))}


Masks = Callable[..., dict[str, Any]]


@pytest.fixture
def masks(tmp_path: Path, segmenter: Callable[..., Path]) -> Masks:
    """The masks of images, in ``out``, by a segmenter of photographs or of other inputs."""

    def written(*places: Path, inputs: InputSpec = PHOTOGRAPHS, tile: int | None = None, out: str = "out") -> Any:
        return predicted(segmenter(inputs), tmp_path / out, *places, tile=tile)

    return written


def read(path: Path) -> np.ndarray:
    if path.suffix == ".tif":
        rasterio = pytest.importorskip("rasterio")
        with rasterio.open(path) as file:
            band: np.ndarray = file.read(1)
            return band
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image)


def evaluated(model: Path, shards: ShardFolder, split: str) -> dict[str, np.ndarray]:
    """What the stage evaluate computes of a split, by key."""
    network, _, inputs = load_segmenter(model)
    data = shards.split(split)
    found = segment(network, data, inputs, device=CPU, batch_size=3, workers=0)
    return {data.keys[index]: mask for index, mask in found}


@pytest.mark.parametrize("images", ["photographs", "arrays"])
def test_photographs_and_arrays_get_the_masks_that_evaluate_computes(tmp_path, segmenter, images):
    write_folder(tmp_path / "raw", images=images)
    packed(DatasetConfig(format="folder", root="raw"), tmp_path / "raw", tmp_path / "shards")
    shards = ShardFolder.open(tmp_path / "shards")
    model = segmenter(shards.input_spec((32, 32)))
    expected = evaluated(model, shards, "train") | evaluated(model, shards, "val")
    found = predicted(model, tmp_path / "out", tmp_path / "raw" / "images")
    assert sorted(found) == [f"{name}.png" for name in ["a", "b.v1", "c", "d", "e", "f", "g", "h", "i"]]
    assert len(np.unique(np.concatenate([mask.ravel() for mask in found.values()]))) > 1
    for key, mask in expected.items():
        np.testing.assert_array_equal(found[f"{key.replace('_', '.')}.png"], mask)


def stacked(pipeline: TinyPipeline, key: str) -> np.ndarray:
    """The rasters of a demo scene as one of 15 bands, reflectance and decibels."""
    rasterio = pytest.importorskip("rasterio")
    season, _, number = key.rpartition("_")
    bands = []
    for sensor in ("s2", "s1"):
        path = pipeline.raw / season / f"{sensor}_validation" / f"{season}_{sensor}_0_{number}.tif"
        with rasterio.open(path) as file:
            bands.append(file.read())
    return np.concatenate(bands).astype(np.float32)


@pytest.mark.parametrize("kind", ["npy", "tif"])
def test_raw_bands_of_dfc2020_become_what_its_reader_stores(tmp_path, pipeline, raster, kind):
    model = pipeline.path("train_segmenter", "segmenter")
    expected = evaluated(model, ShardFolder.open(pipeline.path("preprocess", "shards")), "val")
    for key in expected:
        bands = stacked(pipeline, key)
        if kind == "tif":
            raster(f"scenes/{key}.tif", bands)
        else:
            (tmp_path / "scenes").mkdir(exist_ok=True)
            np.save(tmp_path / "scenes" / f"{key}.npy", bands)
    found = predicted(model, tmp_path / "out", tmp_path / "scenes")
    assert len(found) == 8
    for key, mask in expected.items():  # a scene is as large as a tile: the tile is the image
        suffix = "png" if kind == "npy" else "tif"
        np.testing.assert_array_equal(found[f"{key}.{suffix}"], mask)


def test_geotiffs_keep_place_and_grid_and_have_palette_and_names(tmp_path, masks, raster):
    rasterio = pytest.importorskip("rasterio")
    scene = raster(size=(70, 301))
    mask = masks(scene)["scene.tif"]
    with rasterio.open(scene) as given, rasterio.open(tmp_path / "out" / "scene.tif") as file:
        assert (file.crs, file.transform, file.shape) == (given.crs, given.transform, given.shape)
        assert (file.count, file.dtypes, file.nodata, file.compression.name) == (1, ("uint8",), 255, "deflate")
        assert file.profile["tiled"]
        assert file.colormap(1)[1] == (128, 0, 0, 255)
        assert [file.tags(1)[f"CLASS_{value}"] for value in range(3)] == ["grass", "sand", "sea"]
    assert set(np.unique(mask)) <= {0, 1, 2}
    assert len(np.unique(mask)) > 1


def test_a_raster_that_lies_nowhere_is_predicted_without_a_warning(tmp_path, segmenter, raster):
    rasterio = pytest.importorskip("rasterio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scene = raster(crs=None, transform=None)
        warnings.simplefilter("error")
        network = load_network(segmenter(), device=CPU, batch_size=1)
        predict_masks(find_images([scene], network.inputs), network, tmp_path / "out")
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "out" / "scene.tif") as file:
        assert file.crs is None


def test_nodata_in_all_bands_and_masked_pixels_get_255(masks, raster):
    pixels = np.maximum(smooth(3, (40, 50)), 1)
    pixels[:, 10:20, 5:15] = 0
    pixels[0, 30, 30] = 0  # two bands have a value
    empty = (pixels == 0).all(axis=0)
    out = masks(raster("holes.tif", pixels, nodata=0))
    np.testing.assert_array_equal(out["holes.tif"] == 255, empty)
    alpha = np.concatenate([pixels, np.where(empty, 0, 255).astype(np.uint8)[None]])
    masked = raster("alpha.tif", alpha, photometric="RGB", alpha="YES")
    out = masks(masked, out="masked")
    np.testing.assert_array_equal(out["alpha.tif"] == 255, empty)


def test_transparency_counts_beside_nodata(masks, raster):
    colours = np.maximum(smooth(3, (40, 50)), 1)
    colours[:, 20:30, 5:15] = 0
    alpha = np.full((1, 40, 50), 255, dtype=np.uint8)
    alpha[:, :10] = 0
    bands = np.concatenate([colours, alpha])
    warped = raster("warped.tif", bands, nodata=0, photometric="RGB", alpha="YES")  # as gdalwarp -dstalpha writes it
    out = masks(warped)
    np.testing.assert_array_equal(out["warped.tif"] == 255, (alpha[0] == 0) | (colours == 0).all(axis=0))


FOUR = InputSpec((32, 32), 4, 1 / 255, values="bytes", stored_size=(24, 30))


@pytest.mark.parametrize(("alpha", "inputs"), [("YES", FOUR), ("UNSPECIFIED", PHOTOGRAPHS)], ids=["seen", "unknown"])
def test_a_fourth_band_that_the_model_sees_or_of_unknown_meaning_is_no_transparency(masks, raster, alpha, inputs):
    bands = np.maximum(smooth(4, (40, 50)), 1)
    bands[3, :10] = 0
    out = masks(raster("scene.tif", bands, photometric="RGB", alpha=alpha), inputs=inputs)
    assert not (out["scene.tif"] == 255).any()


@pytest.mark.parametrize("inside", [True, False])
def test_masks_of_the_file_and_beside_it_count(masks, raster, inside):
    rasterio = pytest.importorskip("rasterio")
    scene, visible = raster(size=(40, 50)), np.full((40, 50), 255, dtype=np.uint8)
    visible[5:10, 20:] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(scene, "r+") as file:
        file.write_mask(visible)
    assert Path(f"{scene}.msk").exists() != inside
    out = masks(scene)
    np.testing.assert_array_equal(out["scene.tif"] == 255, visible == 0)


@pytest.mark.parametrize("tile", [None, 16])
def test_pixels_of_arrays_that_are_nan_in_all_bands_get_255(tmp_path, masks, tile):
    values = smooth(3, (40, 50)).astype(np.float32) / 255
    values[:, :20, 10:30] = np.nan
    values[0, 35] = np.nan  # two bands have a value
    np.save(tmp_path / "scene.npy", values)
    inputs = InputSpec((32, 32), 3, 1.0, values="numbers", stored_size=(32, 32))
    out = masks(tmp_path / "scene.npy", inputs=inputs, tile=tile)
    np.testing.assert_array_equal(out["scene.png"] == 255, np.isnan(values).all(axis=0))


def test_a_band_without_value_is_0_for_the_model_as_in_training(masks, raster):
    inputs = InputSpec((32, 32), 3, 1.0, values="numbers", stored_size=(32, 32))
    values = smooth(3, (32, 32)).astype(np.float32) / 255
    zeros = values.copy()
    values[0, 5:25], zeros[0, 5:25] = np.nan, 0
    out = masks(raster("nan.tif", values), raster("zero.tif", zeros), inputs=inputs)
    np.testing.assert_array_equal(out["nan.tif"], out["zero.tif"])
    assert not (out["nan.tif"] == 255).any()


@pytest.mark.parametrize("kind", ["grey", "palette", "colours and alpha"])
def test_geotiffs_of_8_bits_are_seen_as_the_photographs_that_they_are(masks, raster, kind):
    rasterio = pytest.importorskip("rasterio")
    colours = smooth(3, (24, 30))
    if kind == "grey":
        scene, colours = raster(values=colours[:1]), colours[[0, 0, 0]]
    elif kind == "palette":
        table = np.random.default_rng(0).integers(0, 256, size=(256, 3), dtype=np.uint8)
        scene = raster(values=colours[:1], photometric="palette")
        with rasterio.open(scene, "r+") as file:
            file.write_colormap(1, {value: tuple(colour) for value, colour in enumerate(table.tolist())})
        colours = table[colours[0]].transpose(2, 0, 1)
    else:
        scene = raster(values=np.concatenate([colours, np.full((1, 24, 30), 255, dtype=np.uint8)]))
    plain = raster("plain.tif", colours)
    out = masks(scene, plain)
    np.testing.assert_array_equal(out["scene.tif"], out["plain.tif"])


def test_tile_makes_tiles_of_photographs_as_of_rasters(tmp_path, masks, raster):
    pixels = smooth(3, (60, 75))
    scene = raster("scene.tif", pixels)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "photo.png")
    out = masks(scene, tmp_path / "photo.png", tile=24)
    np.testing.assert_array_equal(out["photo.png"], out["scene.tif"])
    whole = masks(tmp_path / "photo.png", out="whole")
    assert (whole["photo.png"] != out["photo.png"]).any()


def test_what_cannot_be_read_to_its_end_is_named_and_the_rest_is_written(tmp_path, masks, raster):
    scene = raster("scenes/good.tif")
    (tmp_path / "scenes" / "cut.tif").write_bytes(scene.read_bytes()[:-4000])
    Image.fromarray(smooth(3, (40, 40)).transpose(1, 2, 0)).save(tmp_path / "scenes" / "photo.png")
    data = (tmp_path / "scenes" / "photo.png").read_bytes()
    (tmp_path / "scenes" / "half.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError) as raised:
        masks(tmp_path / "scenes")
    message = str(raised.value)
    assert message.startswith("2 of 4 images cannot be used:")
    assert "cut.tif" in message
    assert "half.png" in message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [RECORD, "good.tif", "photo.png"]


@pytest.mark.parametrize("room", ["12k", "20k", "28k"])
def test_a_mask_that_does_not_fit_is_an_error_and_no_file(raster, small_disk, room):
    out = small_disk(room) / "out"
    noise = np.random.default_rng(0).integers(0, 256, size=(3, 500, 500), dtype=np.uint8)
    network = Network(torch.nn.Identity(), CLASSES, PHOTOGRAPHS, CPU, 8)  # the class is the brightest band
    with pytest.raises(StorageError, match=r"out/scene\.tif cannot be written .*: make room and run the command again"):
        predict_masks(find_images([raster("scene.tif", noise)], PHOTOGRAPHS), network, out, tile=64)
    assert [path.name for path in out.iterdir()] == [RECORD]


def begun(tmp_path: Path, segmenter: Callable[..., Path]) -> tuple[Path, Path, list[Path]]:
    """A model, a folder with the masks of two photographs, and these and others."""
    places = [tmp_path / "photos" / name for name in ("a.png", "b.png", "c.png")]
    places[0].parent.mkdir()
    for number, path in enumerate(places):
        Image.fromarray(smooth(3, (40, 40), seed=number).transpose(1, 2, 0)).save(path)
    model, out = segmenter(), tmp_path / "out"
    assert run_again(model, out, places[:2]) == 2
    return model, out, places


def run_again(model: Path, out: Path, places: list[Path], **more: Any) -> int:
    network = load_network(model, device=CPU, batch_size=4)
    return predict_masks(find_images(places, network.inputs), network, out, **more)


def test_a_folder_that_was_begun_is_continued(tmp_path, segmenter, caplog):
    model, out, places = begun(tmp_path, segmenter)
    (out / ".c.png.partial").touch()  # left by a run that was killed
    before = (out / "a.png").stat()
    with caplog.at_level("INFO"):
        assert run_again(model, out, places) == 1
    assert caplog.messages == ["2 of 3 masks are there already"]
    after = (out / "a.png").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert sorted(path.name for path in out.iterdir()) == [RECORD, "a.png", "b.png", "c.png"]
    assert run_again(model, out, places) == 0


def test_a_mask_that_is_older_than_its_image_is_made_again(tmp_path, segmenter):
    model, out, places = begun(tmp_path, segmenter)
    old = read(out / "a.png")
    shutil.copyfile(places[2], places[0])
    after = (out / "a.png").stat().st_mtime_ns + 10**9
    os.utime(places[0], ns=(after, after))
    assert run_again(model, out, places[:2]) == 1
    assert (read(out / "a.png") != old).any()


def test_masks_that_were_made_otherwise_are_not_continued(tmp_path, segmenter):
    model, out, places = begun(tmp_path, segmenter)
    with pytest.raises(ArtifactError, match="holds masks made with another --tile; name a new folder"):
        run_again(model, out, places, tile=20)
    other = segmenter(replace(PHOTOGRAPHS, mean=(0.3, 0.3, 0.3)), name="other")
    with pytest.raises(ArtifactError, match="holds masks made with another model; name a new folder"):
        run_again(other, out, places)
    with pytest.raises(ArtifactError, match=r"holds b\.png, which is no mask of these images"):
        run_again(model, out, [places[0], places[2]])
    (out / RECORD).write_text("[]")
    with pytest.raises(ArtifactError, match="holds masks made with another model and"):
        run_again(model, out, places)
    assert sorted(path.name for path in out.iterdir()) == [RECORD, "a.png", "b.png"]


def test_a_folder_with_files_is_left_alone(tmp_path, masks, raster):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ArtifactError, match="is no empty folder"):
        masks(raster())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_scaling_by_maximum_takes_that_of_the_tile(raster, tmp_path):
    from ctm.predict.sources import open_raster_source

    inputs = InputSpec((16, 16), 15, 1e-4, values="dfc2020_image_max", stored_size=(16, 16))
    bands = np.full((15, 16, 16), 4000, dtype=np.float32)
    bands[13:] = -20
    bands[0, 0, 0], bands[13, 0, 0] = 8000, -15
    [image] = find_images([raster("scene.tif", bands)], inputs)
    with open_raster_source(image, inputs) as source:
        stored = source.stored(source.read(0, 16).values)
    assert stored[:13].max() == 10_000
    assert stored[1, 5, 5] == 5000
    assert (stored[13, 0, 0], stored[14, 5, 5]) == (10_000, 5000)


PEAK = """
import sys
from pathlib import Path
import torch
from ctm.data.datasets import rasters
from ctm.predict.images import find_images
from ctm.predict.mask_folder import RECORD
from ctm.predict.masks import predict_masks
from ctm.predict.network import Network
from tests.predict.conftest import CLASSES, PHOTOGRAPHS
torch.set_num_threads(1)
rasters.CACHE_MB = 4  # of which the rasters below are larger by far
network = Network(torch.nn.Conv2d(3, 3, 1), CLASSES, PHOTOGRAPHS, torch.device("cpu"), 32)
out, scene = map(Path, sys.argv[1:])
predict_masks(find_images([scene], PHOTOGRAPHS), network, out, tile=64)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def test_memory_does_not_grow_with_the_height_of_a_raster(tmp_path, raster, repository):
    peaks = []
    for times in (1, 8):
        rows = np.random.default_rng(0).integers(0, 256, size=(3, 1000 * times, 1500), dtype=np.uint8)
        scene = raster(f"scene{times}.tif", rows)
        words = [sys.executable, "-c", PEAK, str(tmp_path / f"out{times}"), str(scene)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=repository)
        peaks.append(int(done.stdout) / 1024)  # of the process alone: ru_maxrss would begin with that of this one
    # Seven more times as many rows: 31 MB of pixels, and 10 MB of the mask, if they were held.
    assert peaks[1] - peaks[0] < 8


def test_the_network_is_in_evaluation_mode(segmenter):
    network = load_network(segmenter(), device=CPU, batch_size=1)
    assert isinstance(network, Network)
    assert not network.model.training
