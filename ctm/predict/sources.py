"""Pixels of an image: whole as a data set would store it, or by bands of rows for images larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ctm.data.datasets.dfc2020 import BANDS, stored_image
from ctm.data.datasets.folder_images import stored_values
from ctm.data.datasets.photographs import read_photograph
from ctm.data.datasets.rasters import Raster, opened_raster, read_array
from ctm.data.datasets.reader import PHOTOGRAPH_CHANNELS, RawFile
from ctm.data.inputs import InputSpec, PixelValues
from ctm.data.libraries import load_rasterio
from ctm.data.sample import decode_image
from ctm.errors import DataError
from ctm.predict.images import ImageFile, pixel_values
from ctm.runtime.progress import track

__all__ = ["ArraySource", "RasterSource", "Rows", "Source", "Whole", "open_raster_source", "read_batches", "read_image"]


class Rows(NamedTuple):
    """Some rows of an image."""

    values: NDArray[Any]
    """(bands, rows, W) as the file holds them."""
    missing: NDArray[np.bool_]
    """(rows, W) pixels without any value."""


class Source(Protocol):
    """An image that is read by bands of rows."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def read(self, start: int, stop: int) -> Rows:
        """The rows from ``start`` to before ``stop``."""

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """What a data set would have stored, (Ch, h, w), of a piece (bands, h, w) of the values."""


class Whole(NamedTuple):
    """A whole image."""

    pixels: NDArray[Any]
    """(Ch, H, W) as ``preprocess`` would have stored it."""
    missing: NDArray[np.bool_]
    """(H, W) pixels without any value."""


class ArraySource:
    """An image in memory, already as a data set would have stored it."""

    def __init__(self, image: Whole) -> None:
        self._image = image
        self.size = image.missing.shape

    def read(self, start: int, stop: int) -> Rows:
        """The rows from ``start`` to before ``stop``."""
        return Rows(self._image.pixels[:, start:stop], self._image.missing[start:stop])

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """The piece as it is."""
        return values


class RasterSource:
    """A GeoTIFF that is read by windows.

    Attributes:
        dataset: rasterio's.
        size: height and width in pixels.
    """

    def __init__(self, path: Path, dataset: Any, inputs: InputSpec) -> None:
        self._path, self._values = path, pixel_values(inputs)
        self.dataset = dataset
        self.size = (dataset.height, dataset.width)
        self._photograph = self._values == "bytes" and inputs.channels == PHOTOGRAPH_CHANNELS
        self._colours = _palette(dataset) if self._photograph and dataset.count == 1 else None
        flags = {flag.name for flag in dataset.mask_flag_enums[0]}
        self._masked = "per_dataset" in flags and "alpha" not in flags  # by a mask of the file, or one beside it
        self._transparent = (
            self._photograph
            and dataset.count > PHOTOGRAPH_CHANNELS
            and dataset.colorinterp[PHOTOGRAPH_CHANNELS].name == "alpha"
        )

    def read(self, start: int, stop: int) -> Rows:
        """The rows from ``start`` to before ``stop``.

        Missing is what is nodata or NaN in all bands that the model sees, what a mask leaves out, and what is
        transparent by a band that the model does not see.

        Raises:
            DataError: the file is damaged there.
        """
        rasterio = load_rasterio()
        window = rasterio.windows.Window(0, start, self.size[1], stop - start)
        try:
            values = self.dataset.read(window=window)
            visible = self.dataset.read_masks(1, window=window) if self._masked else None
        except rasterio.errors.RasterioError as error:
            raise DataError(
                f"{self._path} cannot be read from row {start} to {stop} ({error}); replace the file or leave it out"
            ) from error
        seen = values[:PHOTOGRAPH_CHANNELS] if self._photograph else values
        missing: NDArray[np.bool_] = np.logical_and.reduce(self._raster(seen).missing)  # over the bands
        if visible is not None:
            missing |= visible == 0
        if self._transparent:
            missing |= values[PHOTOGRAPH_CHANNELS] == 0
        return Rows(values, missing)

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """What a data set would have stored of a piece: colours of 8 bits, or bands whose missing values are 0."""
        if not self._photograph:
            return _stored(self._raster(values), self._values)
        if self._colours is not None:
            return np.moveaxis(self._colours[values[0]], -1, 0)
        grey = len(values) < PHOTOGRAPH_CHANNELS
        return np.repeat(values, PHOTOGRAPH_CHANNELS, axis=0) if grey else values[:PHOTOGRAPH_CHANNELS]

    def _raster(self, values: NDArray[Any]) -> Raster:
        return Raster(RawFile(str(self._path), b""), values, nodata=self.dataset.nodata)


@contextmanager
def open_raster_source(image: ImageFile, inputs: InputSpec) -> Iterator[RasterSource]:
    """Opens a GeoTIFF for a model.

    Raises:
        DataError: it cannot be opened.
    """
    with opened_raster(image.path) as dataset:
        yield RasterSource(image.path, dataset, inputs)


def read_image(image: ImageFile, inputs: InputSpec) -> Whole:
    """The whole image as ``preprocess`` would have stored it for the model.

    Raises:
        DataError: the file is damaged.
    """
    if image.kind == "raster":
        with open_raster_source(image, inputs) as source:
            rows = source.read(0, source.size[0])
            return Whole(np.ascontiguousarray(source.stored(rows.values)), rows.missing)
    file = RawFile(str(image.path), image.path.read_bytes())
    if image.kind == "array":
        raster = read_array(file)
        return Whole(_stored(raster, pixel_values(inputs)), np.logical_and.reduce(raster.missing))
    photograph = read_photograph(file)
    pixels = decode_image(photograph.data, photograph.extension)
    return Whole(pixels, np.zeros(pixels.shape[1:], dtype=bool))


def read_batches(
    images: Sequence[ImageFile], inputs: InputSpec, *, batch_size: int, failures: list[str], description: str
) -> Iterator[dict[str, Whole]]:
    """Yields whole images by their names, some at a time, while it shows how far it is.

    Args:
        images: what is read; see ``read_image``.
        inputs: what the model takes.
        batch_size: how many at a time at most.
        failures: gets what is wrong with images that cannot be read; they are passed over.
        description: of the work.
    """
    batch: dict[str, Whole] = {}
    for number, image in enumerate(track(images, description=description, total=len(images)), start=1):
        try:
            batch[image.name] = read_image(image, inputs)
        except DataError as error:
            failures.append(str(error))
        if batch and (len(batch) == batch_size or number == len(images)):
            yield batch
            batch = {}


def _stored(raster: Raster, values: PixelValues) -> NDArray[Any]:
    """A raster's values as the reader of the model's data set stores them."""
    if values in ("bytes", "numbers"):
        return stored_values(raster)[0]
    s2, s1 = raster.array[: BANDS["s2"]], raster.array[BANDS["s2"] :]
    by_maximum = values == "dfc2020_image_max"
    return stored_image(raster._replace(array=s2), raster._replace(array=s1), by_maximum=by_maximum)[0]


def _palette(dataset: Any) -> NDArray[np.uint8] | None:
    """The colours of a palette's indices, (256, 3); None for greys."""
    if dataset.colorinterp[0].name != "palette":
        return None
    colours = np.zeros((256, 3), dtype=np.uint8)
    for index, colour in dataset.colormap(1).items():
        colours[index] = colour[:3]
    return colours
