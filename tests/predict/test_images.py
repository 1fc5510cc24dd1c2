"""Images are found and held against the model before any work: each mistake has its message."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

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


def test_folders_give_the_images_directly_inside_and_each_counts_once(tmp_path, raster):
    first = photograph(tmp_path / "images" / "b.JPG")
    raster("images/a.tif")
    photograph(tmp_path / "images" / ".hidden.png")
    (tmp_path / "images" / "notes.txt").touch()
    (tmp_path / "images" / "below").mkdir()
    photograph(tmp_path / "images" / "below" / "c.png")
    found = find_images([first, tmp_path / "images"], PHOTOGRAPHS)
    assert [(image.path.name, image.kind) for image in found] == [("b.JPG", "photograph"), ("a.tif", "raster")]


def test_two_images_of_one_name_are_refused(tmp_path):
    one, other = photograph(tmp_path / "x" / "a.png"), photograph(tmp_path / "y" / "a.jpg")
    assert (
        refused([one, other])
        == f"{one} and {other} would get one name, a.png; rename one, or run them with another --out"
    )


def test_images_whose_masks_differ_in_suffix_get_on_but_their_explanations_do_not(tmp_path, raster):
    scene, values = raster("x.tif"), array(tmp_path / "x.npy", smooth(3, (20, 20)))
    assert len(find_images([scene, values], PHOTOGRAPHS)) == 2
    with pytest.raises(DataError, match="would get one name, x; rename one"):
        find_images([scene, values], PHOTOGRAPHS, explained=True)


def test_two_links_to_one_file_are_two_images(tmp_path):
    stored = photograph(tmp_path / "cache" / "0a1b.png")
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).symlink_to(stored)
    found = find_images([tmp_path / "images", tmp_path / "images" / "a.png"], PHOTOGRAPHS)
    assert [image.name for image in found] == ["a", "b"]


def test_what_the_model_takes_is_said_once(tmp_path, raster):
    places = [photograph(tmp_path / f"{number}.png") for number in range(3)]
    message = refused([*places, raster("few.tif", smooth(2, (20, 20)).astype(np.uint16))], NUMBERS)
    assert message.splitlines() == [
        "4 of 4 images cannot be used; the model takes 4 channels of more than 8 bits:",
        *(f"  {place} is a photograph" for place in places),
        f"  {tmp_path / 'few.tif'} has 2 bands",
    ]


def test_empty_and_too_large_images_are_refused_by_their_headers(tmp_path, raster):
    empty = array(tmp_path / "empty.npy", np.zeros((4, 0, 9), dtype=np.float32))
    assert "empty.npy: the image has no pixels: 4 bands of 9x0" in refused([empty], NUMBERS)
    with (tmp_path / "large.npy").open("wb") as file:
        head = {"descr": "<f4", "fortran_order": False, "shape": (4, 12_000, 12_000)}
        np.lib.format.write_array_header_1_0(file, head)
        file.truncate(file.tell() + 4 * 4 * 12_000 * 12_000)  # a sparse file
    assert "claims 4 bands of 12000x12000 pixels" in refused([tmp_path / "large.npy"], NUMBERS)
    whole = raster("scene.tif", size=(20, 20))
    (tmp_path / "cut.npy").write_bytes(array(tmp_path / "a.npy", np.zeros((4, 9, 9), np.float32)).read_bytes()[:-9])
    assert "the file is damaged" in refused([tmp_path / "cut.npy"], NUMBERS)
    rasterio = pytest.importorskip("rasterio")
    shape = {"count": 3, "height": 15_000, "width": 15_000, "dtype": "uint8"}
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    with rasterio.open(tmp_path / "vast.tif", "w", driver="GTiff", sparse_ok=True, **shape, **place):
        pass
    assert len(find_images([whole, tmp_path / "vast.tif"], PHOTOGRAPHS)) == 2  # seen in tiles
    with pytest.raises(DataError, match=r"vast\.tif: the image claims 15000x15000 pixels"):
        find_images([whole, tmp_path / "vast.tif"], PHOTOGRAPHS, explained=True)


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_greys_of_fewer_than_8_bits_are_refused(raster, bits):
    scene = raster(values=smooth(1, (20, 20)) >> (8 - bits), nbits=bits)
    assert f"holds greys of {bits} bit" in refused([scene])
    assert find_images([raster("indices.tif", smooth(1, (20, 20)) >> 4, nbits=4, photometric="palette")], PHOTOGRAPHS)


def test_what_is_not_heeded_is_warned_of_once(tmp_path, raster, caplog):
    rasterio = pytest.importorskip("rasterio")
    exif = Image.Exif()
    for name, orientation in (("a.jpg", 6), ("b.png", 3), ("c.jpg", 1)):
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(smooth(3, (20, 30)).transpose(1, 2, 0)).save(tmp_path / name, exif=exif)
    points = [rasterio.control.GroundControlPoint(row, 9 * row, 10.0 + row, 50.0) for row in (0, 1, 2)]
    turned = [tmp_path / name for name in ("a.jpg", "b.png", "c.jpg")]
    find_images(
        [*turned, raster("placed.tif"), raster("points.tif", crs="EPSG:4326", transform=None, gcps=points)], PHOTOGRAPHS
    )
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert caplog.messages[0].startswith("photographs with an EXIF orientation, which is not applied")
    assert caplog.messages[0].endswith(": 2 of 5 images")
    assert caplog.messages[1].startswith("GeoTIFFs placed only by ground control points")
    assert caplog.messages[1].endswith(": 1 of 5 images")


def test_every_file_that_cannot_be_used_is_named(tmp_path):
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


def test_places_without_an_image_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    assert "does not exist" in refused([tmp_path / "none.png"])
    assert "holds no image (suffixes read: .bmp, .jpeg, .jpg, .npy" in refused([tmp_path / "empty"])
    assert "is no image by its suffix" in refused([tmp_path / "notes.txt"])


def test_wrong_channels_and_types_are_refused(tmp_path, raster):
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


def test_bands_of_dfc2020_must_be_able_to_hold_decibels(raster):
    bands = smooth(15, (20, 20)).astype(np.float32)
    assert find_images([raster("good.tif", bands)], DFC2020)
    stored = raster("stored.tif", bands.astype(np.uint16))
    message = refused([stored], DFC2020)
    assert "uint16 values, which cannot be decibels, but the model takes 15 bands as DFC2020 has them" in message
    assert "13 of Sentinel-2" in message


def test_a_model_of_an_older_ctm_is_taken_for_8_bits_by_its_scale_alone(tmp_path):
    assert find_images([photograph(tmp_path / "a.png")], replace(PHOTOGRAPHS, values=None))
    with pytest.raises(ArtifactError, match="does not say what the pixel values"):
        find_images([tmp_path / "a.png"], replace(DFC2020, values=None))


def test_long_lists_of_problems_are_cut():
    assert problems_message(["only one"], "of 3") == "only one"
    lines = problems_message([f"problem {number}" for number in range(30)], "of 30 files").splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("30 of 30 files:", 12, "  … and 20 more")
