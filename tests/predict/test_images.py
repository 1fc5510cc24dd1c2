"""Images are found and held against the model before any work: each mistake has its message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctm.data.inputs import InputSpec
from ctm.errors import ArtifactError, DataError
from ctm.predict.images import find_images, problems_message
from tests.predict.conftest import PHOTOGRAPHS, smooth

NUMBERS = InputSpec((32, 32), 4, 1.0, values="numbers")
DFC2020 = InputSpec((32, 32), 15, 1e-4, values="dfc2020")


def photograph(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(smooth(3, (20, 30)).transpose(1, 2, 0)).save(path)
    return path


def array(path: Path, values: np.ndarray) -> Path:
    np.save(path, values)
    return path


def refused(places: list[Path], inputs: InputSpec = PHOTOGRAPHS) -> str:
    with pytest.raises(DataError) as raised:
        find_images(places, inputs)
    return str(raised.value)


def test_folders_give_the_images_directly_inside_and_each_counts_once(tmp_path: Path, raster: Callable[..., Path]):
    first = photograph(tmp_path / "images" / "b.JPG")
    raster("images/a.tif")
    photograph(tmp_path / "images" / ".hidden.png")
    (tmp_path / "images" / "notes.txt").touch()
    (tmp_path / "images" / "below").mkdir()
    photograph(tmp_path / "images" / "below" / "c.png")
    found = find_images([first, tmp_path / "images"], PHOTOGRAPHS)
    assert [(image.path.name, image.kind) for image in found] == [("b.JPG", "photograph"), ("a.tif", "raster")]


def test_two_images_of_one_name_are_refused(tmp_path: Path):
    one, other = photograph(tmp_path / "x" / "a.png"), photograph(tmp_path / "y" / "a.jpg")
    assert refused([one, other]) == f"{one} and {other} would get one name, a; rename one, or use two folders"


def test_every_file_that_cannot_be_used_is_named(tmp_path: Path):
    good = photograph(tmp_path / "good.png")
    (tmp_path / "text_jpg.jpg").write_text("no picture")
    (tmp_path / "text_tif.tif").write_text("no raster")
    (tmp_path / "text_npy.npy").write_text("no array")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    bad = [tmp_path / name for name in ("text_jpg.jpg", "text_tif.tif", "text_npy.npy", "deep.png")]
    message = refused([good, *bad])
    assert message.startswith("4 of 5 images cannot be used:\n")
    assert all(str(path) in message for path in bad)
    assert "colour mode 'I;16'" in message


def test_places_without_an_image_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    assert "does not exist" in refused([tmp_path / "none.png"])
    assert "holds no image (suffixes read: .bmp, .jpeg, .jpg, .npy" in refused([tmp_path / "empty"])
    assert "is no image by its suffix" in refused([tmp_path / "notes.txt"])


def test_wrong_channels_and_types_are_refused(tmp_path: Path, raster: Callable[..., Path]):
    colours = photograph(tmp_path / "photo.png")
    assert "is a photograph, but the model takes 4 channels of more than 8 bits" in refused([colours], NUMBERS)
    two = raster("two.tif", smooth(2, (20, 20)))
    assert "has 2 bands, but the model takes 3 channels of 8 bits" in refused([two])
    deep = raster("deep.tif", smooth(3, (20, 20)).astype(np.uint16))
    assert "holds uint16 values, but the model takes 3 channels of 8 bits" in refused([deep])
    odd = array(tmp_path / "odd.npy", np.zeros((4, 9, 9), dtype=np.complex64))
    assert "holds complex64 values; valid are uint8, uint16" in refused([odd], NUMBERS)
    last = array(tmp_path / "last.npy", np.zeros((30, 20, 4), dtype=np.float32))
    assert "looks like (height, width, channels)" in refused([last], NUMBERS)
    flat = array(tmp_path / "flat.npy", np.zeros(7))
    assert "has shape (7,)" in refused([flat], NUMBERS)
    inverted = raster("inverted.tif", smooth(1, (20, 20)), photometric="MINISWHITE")
    assert "inverted greys" in refused([inverted])


def test_bands_of_dfc2020_must_be_able_to_hold_decibels(raster: Callable[..., Path]):
    bands = smooth(15, (20, 20)).astype(np.float32)
    assert find_images([raster("good.tif", bands)], DFC2020)
    stored = raster("stored.tif", bands.astype(np.uint16))
    message = refused([stored], DFC2020)
    assert "uint16 values, which cannot be decibels, but the model takes 15 bands as DFC2020 has them" in message
    assert "13 of Sentinel-2" in message


def test_a_model_of_an_older_ctm_is_taken_for_8_bits_by_its_scale_alone(tmp_path: Path):
    assert find_images([photograph(tmp_path / "a.png")], replace(PHOTOGRAPHS, values=None))
    with pytest.raises(ArtifactError, match="does not say what the pixel values"):
        find_images([tmp_path / "a.png"], replace(DFC2020, values=None))


def test_long_lists_of_problems_are_cut():
    assert problems_message(["only one"], "of 3") == "only one"
    lines = problems_message([f"problem {number}" for number in range(30)], "of 30 files").splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("30 of 30 files:", 12, "  … and 20 more")
