"""``ctm predict`` through the real command line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctm.predict.mask_folder import RECORD
from tests.conftest import TinyPipeline
from tests.test_cli import COMMANDS, command, fail, place, succeed

CTM = Path(sys.executable).with_name("ctm")

__all__ = ["place"]  # every test has an empty working folder


def write_geotiff(path: Path, bands: NDArray[np.float32]) -> Path:
    rasterio = pytest.importorskip("rasterio")
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": "float32"}
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
        file.write(bands)
    return path


@pytest.fixture
def bands() -> NDArray[np.float32]:
    """15 bands as DFC2020 has them, larger than a scene of the demo."""
    rng = np.random.default_rng(0)
    bands = rng.uniform(0, 6000, size=(15, 50, 70)).astype(np.float32)
    bands[13:] = rng.uniform(-25, 0, size=(2, 50, 70))
    return bands


@pytest.fixture
def scene(tmp_path: Path, bands: NDArray[np.float32]) -> Path:
    return write_geotiff(tmp_path / "scene.tif", bands)


@pytest.fixture
def segmenter(pipeline: TinyPipeline) -> Path:
    return pipeline.path("train_segmenter", "segmenter")


@pytest.fixture
def classifier(pipeline: TinyPipeline) -> Path:
    return pipeline.path("prune_heads", "pruned")


def test_masks_by_a_trained_segmenter(segmenter: Path, scene: Path, tmp_path: Path):
    words = ("predict", "--model", segmenter, scene, "--device", "cpu", "--out")
    done = command(*words, "masks", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote 1 mask to masks\n", "")
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [RECORD, "scene.tif"]
    again = command(*words, "masks", cwd=tmp_path)
    assert (again.stdout, again.stderr) == ("wrote 0 masks to masks\n", "1 of 1 masks are there already\n")
    assert "is no empty folder" in fail(*words, ".")


def test_what_was_ended_goes_on(segmenter: Path, bands: NDArray[np.float32], tmp_path: Path):
    np.save(tmp_path / "small.npy", bands)
    write_geotiff(tmp_path / "large.tif", np.tile(bands, (1, 12, 11)))
    words = [
        "predict",
        "--model",
        segmenter,
        "small.npy",
        "large.tif",
        "--out",
        "masks",
        "--device",
        "cpu",
        "--tile",
        "16",
    ]
    process = subprocess.Popen([CTM, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "masks" / ".large.tif.partial").exists():
        time.sleep(0.01)
    process.terminate()
    log = process.communicate(timeout=60)[1]
    assert process.returncode == 143, log
    assert log.endswith("ended by SIGTERM; the same command goes on; the masks that are there are kept\n")
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == [RECORD, "small.png"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote 1 mask to masks\n"
    assert "1 of 2 masks are there already" in done.stderr


@pytest.mark.parametrize("stage", ["train_classifier", "prune_heads"])
def test_explanations_by_a_classifier(pipeline: TinyPipeline, scene: Path, stage: str):
    model = pipeline.path(stage, {"train_classifier": "classifier", "prune_heads": "pruned"}[stage])
    text = succeed("predict", "--explain", "--model", model, scene, "--out", "why", "--device", "cpu")
    count = len(list(Path("why").rglob("*.png")))
    assert text == f"wrote predictions.csv and {count} {'picture' if count == 1 else 'pictures'} to why\n"
    rows = Path("why/predictions.csv").read_text().splitlines()
    assert rows[0] == "image,class,probability"
    assert rows[1].startswith("scene,Forest,")
    assert sum(float(row.split(",")[2]) > 0.5 for row in rows[1:]) == count


def test_the_wrong_kind_of_model_is_refused_with_the_right_one(segmenter: Path, classifier: Path, scene: Path):
    message = fail("predict", "--model", classifier, scene, "--out", "masks")
    assert "holds a classifier, no segmenter" in message
    assert "train-segmenter writes one, or add --explain" in message
    message = fail("predict", "--explain", "--model", segmenter, scene, "--out", "why")
    assert "holds a segmenter, no classifier" in message
    assert "train-classifier and prune-heads write one, or leave --explain out" in message
    assert "holds no readable model" in fail("predict", "--model", "nowhere", scene, "--out", "masks")
    assert not Path("masks").exists()


def test_images_that_do_not_fit_are_named_and_nothing_is_written(segmenter: Path, tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    message = fail("predict", "--model", segmenter, "photo.png", "--out", "masks")
    assert message.startswith("photo.png is a photograph, but the model takes 15 bands as DFC2020 has them")
    assert not Path("masks").exists()


def test_tiles_are_for_masks(classifier: Path, scene: Path):
    message = fail("predict", "--explain", "--tile", "32", "--model", classifier, scene, "--out", "why")
    assert message.startswith("--tile is for masks")


def test_the_help_names_every_stage_whose_model_is_taken():
    help_of_model = next(option.help for option in COMMANDS["predict"].params if option.name == "model")
    assert all(stage in help_of_model for stage in ("train-segmenter", "train-classifier", "prune-heads"))
