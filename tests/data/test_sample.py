"""Encodings of images and masks."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ctm.data.sample import decode_image, decode_mask, encode_array, encode_mask, safe_key
from ctm.errors import DataError


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_arrays_survive_encoding(kind: type) -> None:
    array = (np.random.default_rng(0).random((15, 4, 6)) * 100).astype(kind)
    decoded = decode_image(encode_array(array), "npy")
    assert decoded.dtype == kind
    np.testing.assert_array_equal(decoded, array)


def test_masks_survive_encoding_with_every_value() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


def test_palette_masks_give_indices_not_colours() -> None:
    image = Image.fromarray(np.array([[0, 7, 255]], dtype=np.uint8))
    image.putpalette([9] * 768)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    assert decode_mask(buffer.getvalue()).tolist() == [[0, 7, 255]]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_colour_mode_decodes_as_rgb(mode: str) -> None:
    image = Image.new("RGB", (5, 3), (200, 100, 50)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG" if mode == "CMYK" else "PNG")
    decoded = decode_image(buffer.getvalue(), "png")
    assert decoded.shape == (3, 3, 5)
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize("mode", ["RGB", "1", "I;16"])
def test_masks_that_are_no_indices_are_refused(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4)).save(buffer, format="PNG")
    with pytest.raises(DataError, match=f"colour mode '{mode}'; store class indices"):
        decode_mask(buffer.getvalue())


@pytest.mark.parametrize("extension", ["jpg", "npy"])
def test_damaged_bytes_are_a_data_error(extension: str) -> None:
    with pytest.raises(DataError, match=f"no readable {extension}"):
        decode_image(b"nothing of the kind", extension)
    with pytest.raises(DataError, match="no readable mask"):
        decode_mask(b"nothing of the kind")


def test_arrays_never_load_pickles() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="no readable npy"):
        decode_image(buffer.getvalue(), "npy")


def test_keys_hold_no_dot_and_keep_foreign_names_apart() -> None:
    assert safe_key("IMG_1.final-2") == "IMG_1_final-2"
    assert safe_key("../x y") == "___x_y"
    assert safe_key("图") != safe_key("片")
    assert safe_key("é") == "ue9"
