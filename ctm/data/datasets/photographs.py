"""Photographs of 8 bits and masks of class indices, as files hold them."""

from __future__ import annotations

import io
from collections.abc import Container, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ctm.data.classes import IGNORE
from ctm.data.datasets.reader import RawFile
from ctm.data.sample import UNREADABLE, StoredImage, decode_mask
from ctm.errors import DataError

__all__ = [
    "EIGHT_BIT_MODES",
    "check_size",
    "check_values",
    "is_turned",
    "mask_values",
    "read_mask",
    "read_photograph",
    "stored_mask",
]

STORED_AS_IS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}
"""File formats whose bytes go into the shards unchanged; MPO is a camera's JPEG with a preview behind it."""
EIGHT_BIT_MODES = {"1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"}
UPRIGHT = 1
"""EXIF's orientation of a photograph that is shown as it is stored."""


def read_photograph(file: RawFile) -> StoredImage:
    """Checks a photograph of 8 bits; JPEG and PNG keep their bytes, other formats become PNG.

    Raises:
        DataError: the file is damaged, too large, or no photograph of 8 bits.
    """
    try:
        with Image.open(io.BytesIO(file.data)) as image:
            image.load()
            if image.mode not in EIGHT_BIT_MODES:
                raise DataError(f"colour mode {image.mode!r}, but photographs have 8 bits a channel")
            size = (image.height, image.width)
            notes = _notes(image)
            if image.format in STORED_AS_IS:
                return StoredImage(file.data, STORED_AS_IS[image.format], size, notes)
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, format="PNG")
            return StoredImage(buffer.getvalue(), "png", size, notes)
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from error
    except UNREADABLE as error:
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{file.path} is no readable image ({reason}); replace the file or remove it from the lists"
        ) from error


def read_mask(file: RawFile, *, size: tuple[int, int], names: Sequence[str]) -> NDArray[np.uint8]:
    """The class indices in a mask file, (H, W), 255 = ignore.

    Args:
        file: an 8-bit greyscale or palette image.
        size: height and width of the image that it belongs to.
        names: the classes; a value is an index into them.

    Raises:
        DataError: the file is damaged, holds colours, has another size, or a value that is no class.
    """
    mask = stored_mask(file, size=size)
    check_values(file, mask, range(len(names)), f"0 to {len(names) - 1} (the classes)")
    return mask


def stored_mask(file: RawFile, *, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The values in a mask file, (H, W), whatever they mean.

    Args:
        file: an 8-bit greyscale or palette image.
        size: height and width of the image that it belongs to.

    Raises:
        DataError: the file is damaged, holds colours, or has another size.
    """
    try:
        mask = decode_mask(file.data)
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from error
    check_size(file, mask.shape, size)
    return mask


def check_size(file: RawFile, found: tuple[int, ...], size: tuple[int, int]) -> None:
    """Checks that a mask has its image's size; both are height and width.

    Raises:
        DataError: it has not.
    """
    if found != size:
        raise DataError(
            f"{file.path}: the mask is {found[1]}x{found[0]} pixels (width x height), "
            f"but its image is {size[1]}x{size[0]}; both must be of one size"
        )


def check_values(file: RawFile, mask: NDArray[np.integer], valid: Container[int], words: str) -> None:
    """Checks that a mask holds nothing but ``valid`` values and 255.

    Raises:
        DataError: it does; the message says what is valid by ``words``.
    """
    wrong = [value for value in mask_values(mask) if value not in valid and value != IGNORE]
    if wrong:
        raise DataError(f"{file.path}: mask values {wrong} are no class; valid are {words} and {IGNORE} (ignore)")


def mask_values(mask: NDArray[np.integer]) -> list[int]:
    """The values that occur in a mask, ascending."""
    # Counting is ten times as fast as the sorting of ``unique``.
    found = np.flatnonzero(np.bincount(mask.ravel())) if mask.dtype == np.uint8 else np.unique(mask)
    return [int(value) for value in found]


def is_turned(image: Image.Image) -> bool:
    """Whether EXIF says that a photograph is to be turned before it is shown."""
    return bool(image.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT)


def _notes(image: Image.Image) -> tuple[str, ...]:
    notes = ["an EXIF orientation, which is not applied"] if is_turned(image) else []
    if image.mode != "RGB":
        notes.append(f"colour mode {image.mode}, which becomes RGB")
    return tuple(notes)
