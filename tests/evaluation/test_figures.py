"""Pictures: what becomes visible, and that they carry no address."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctm.data.classes import ClassTable
from ctm.evaluation.figures import (
    class_colours,
    curves_svg,
    heat_picture,
    mask_picture,
    photo_picture,
)

GREY = np.full((40, 60, 3), 128, dtype=np.uint8)
COLOURS = class_colours(ClassTable(("a", "b")))


def pixels(uri: str) -> NDArray[np.int64]:
    """The picture inside a data URI."""
    head, data = uri.split(",")
    assert head.startswith("data:image/")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def test_every_class_has_its_own_colour_and_the_background_is_grey():
    colours = class_colours(ClassTable(tuple(map(str, range(151))), background=0))
    assert len({tuple(colour) for colour in colours}) == 151
    assert colours[0].max() - colours[0].min() < 10


def test_large_pictures_are_reduced_and_small_ones_enlarged_in_whole_pixels():
    assert pixels(photo_picture(np.zeros((1000, 500, 3), dtype=np.uint8))).shape == (320, 160, 3)
    assert pixels(photo_picture(np.zeros((64, 48, 3), dtype=np.uint8))).shape == (320, 240, 3)


def test_a_mask_colours_its_pixels_and_leaves_ignored_ones_grey():
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[:, 20:40] = 1
    mask[:, 40:] = 255
    picture = pixels(mask_picture(GREY, mask, COLOURS))
    for column, k in ((50, 0), (150, 1)):
        towards = np.sign(COLOURS[k].astype(int) - 128) * (picture[100, column] - 128)
        assert (towards[np.abs(COLOURS[k].astype(int) - 128) > 20] > 5).all()
    assert np.abs(picture[100, 270] - 128).max() < 6


def test_a_map_is_brightest_at_its_peak():
    class_map = np.zeros((4, 6), dtype=np.float32)
    class_map[1, 4] = 1e-5
    picture = pixels(heat_picture(GREY, class_map)).sum(axis=2)
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    assert (row * 4 // picture.shape[0], column * 6 // picture.shape[1]) == (1, 4)


def test_a_map_of_zeros_is_no_error():
    assert pixels(heat_picture(GREY, np.zeros((4, 6), dtype=np.float32))).std() < 5


def test_curves_are_one_plain_element_of_the_same_bytes_each_time():
    rows = [{"epoch": "1", "train_loss": "0.5", "val_map": ""}, {"epoch": "2", "train_loss": "0.4", "val_map": "0.3"}]
    first, second = (curves_svg(rows, ["train_loss", "val_map"]) for _ in range(2))
    assert first == second
    assert first.startswith("<svg viewBox=")
    assert "//" not in first
    assert "train loss" in first
    assert "val mAP" in first
