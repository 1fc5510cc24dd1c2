"""One sample as a raw-data reader gives it, and the encodings in which images and masks are stored. No torch here."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ctm.errors import DataError

__all__ = [
    "MAX_PIXELS",
    "Georeference",
    "Sample",
    "StoredImage",
    "check_pixels",
    "decode_image",
    "decode_mask",
    "encode_array",
    "encode_mask",
    "safe_key",
]

MAX_PIXELS = 178_956_970
"""Largest image that is decoded, as Pillow's own limit is: a small file can claim to be larger."""

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow and numpy raise for bytes that are not the picture or array they claim to be."""


@dataclass(frozen=True)
class Georeference:
    """Where on Earth the pixels of an image lie.

    Attributes:
        crs: coordinate reference system as rasterio writes it, such as ``EPSG:32632``.
        transform: rasterio's affine transform from (column, row) to coordinates: a, b, c, d, e, f.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Georeference:
        """Rebuilds what ``dataclasses.asdict`` and JSON made of one."""
        a, b, c, d, e, f = values["transform"]
        return cls(crs=values["crs"], transform=(a, b, c, d, e, f))


@dataclass(frozen=True)
class Sample:
    """One raw sample, already validated: it decodes, the sizes agree and the labels are known.

    Attributes:
        key: unique in its split; letters, digits, ``_`` and ``-`` only (see ``safe_key``).
        image: the encoded image.
        extension: its encoding: ``jpg`` or ``png`` (8 bits, decoded as RGB), or ``npy`` (an array of shape (Ch, H, W)).
        height: rows of the image in pixels.
        width: columns of the image in pixels.
        labels: image-level labels as mask values, ascending, never the background.
        mask: truth of shape (H, W) for evaluation alone, 255 = ignore; None if there is none.
        georeference: where the image lies on Earth; None if it does not say.
        notes: what was mended or passed over in this sample, in words that are counted over all samples.
    """

    key: str
    image: bytes
    extension: str
    height: int
    width: int
    labels: tuple[int, ...]
    mask: NDArray[np.uint8] | None
    georeference: Georeference | None = None
    notes: tuple[str, ...] = ()


class StoredImage(NamedTuple):
    """An image that decodes, as it will be stored."""

    data: bytes
    """Its encoded bytes."""
    extension: str
    """Their encoding, see ``Sample``."""
    size: tuple[int, int]
    """Height and width in pixels."""
    notes: tuple[str, ...] = ()
    """See ``Sample``."""
    georeference: Georeference | None = None
    """Where it lies on Earth."""

    def sample(
        self, key: str, *, labels: tuple[int, ...], mask: NDArray[np.uint8] | None, notes: tuple[str, ...] = ()
    ) -> Sample:
        """The sample of this image, with ``notes`` beside its own."""
        return Sample(
            key, self.data, self.extension, *self.size, labels, mask, self.georeference, notes=self.notes + notes
        )


def safe_key(name: str) -> str:
    """A key for ``name``: in a WebDataset the first dot ends the key, and not every character suits a file name.

    ASCII characters other than letters, digits, ``_`` and ``-`` become ``_``; others ``u`` and their code point, so
    that names in other scripts stay distinct. Different names can still meet: readers must check.
    """
    return re.sub(r"[^A-Za-z0-9_-]", lambda match: "_" if match[0].isascii() else f"u{ord(match[0]):x}", name)


def check_pixels(width: int, height: int) -> None:
    """Refuses an image that is too large to be decoded, before it is; Pillow does so by itself.

    Raises:
        DataError: it has more than ``MAX_PIXELS`` pixels.
    """
    if width * height > MAX_PIXELS:
        raise DataError(
            f"the image claims {width}x{height} pixels, more than the {MAX_PIXELS:,} that are decoded; "
            "cut it into tiles if it really is that large"
        )


def encode_array(array: NDArray[Any]) -> bytes:
    """The bytes of an ``.npy`` file that holds ``array``."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def decode_image(data: bytes, extension: str) -> NDArray[Any]:
    """The image of shape (Ch, H, W) that ``data`` encodes.

    ``jpg`` and ``png`` give 8-bit RGB whatever their colour mode (an EXIF orientation is not applied, nor is it in
    the usual data sets); ``npy`` gives the stored array and type.

    Raises:
        DataError: the bytes are damaged, or no image of that encoding.
    """
    try:
        if extension == "npy":
            array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            with Image.open(io.BytesIO(data)) as image:
                rgb = image if image.mode == "RGB" else image.convert("RGB")
                array = np.array(rgb).transpose(2, 0, 1)
    except UNREADABLE as error:
        raise DataError(f"the bytes are no readable {extension} image: {_reason(error)}") from error
    if array.ndim != 3:
        raise DataError(f"the image array has shape {array.shape}, expected (channels, height, width)")
    return array


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """A greyscale PNG whose pixel values are the values of ``mask``, (H, W)."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """The mask of shape (H, W) in an 8-bit greyscale or palette image; a palette's indices are the values.

    Raises:
        DataError: the bytes are damaged, or an image whose pixels are colours or have more than 8 bits.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode
            mask: NDArray[np.uint8] = np.array(image)
    except UNREADABLE as error:
        raise DataError(f"the bytes are no readable mask: {_reason(error)}") from error
    if mode not in {"L", "P"}:
        raise DataError(
            f"the mask has colour mode {mode!r}; store class indices as an 8-bit greyscale (L) or palette (P) PNG"
        )
    return mask


def _reason(error: Exception) -> str:
    """What is wrong with the bytes; Pillow's own words for an unknown format name an object in memory."""
    return "no known format" if isinstance(error, UnidentifiedImageError) else str(error)
