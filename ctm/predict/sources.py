"""Pixels of an image: whole as a data set would store it, or by bands of rows for images larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ctm.data.datasets.dfc2020 import BANDS, stored_image
from ctm.data.datasets.folder_images import PHOTOGRAPH_CHANNELS, stored_values
from ctm.data.datasets.photographs import read_photograph
from ctm.data.datasets.rasters import Raster, load_rasterio, opened_raster, read_array
from ctm.data.datasets.reader import RawFile
from ctm.data.inputs import InputSpec, PixelValues
from ctm.data.sample import check_pixels, decode_image
from ctm.errors import DataError
from ctm.predict.images import ImageFile, pixel_values
from ctm.runtime.progress import track

__all__ = ["ArraySource", "RasterSource", "Rows", "Source", "open_raster_source", "read_batches", "read_image"]


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


class ArraySource:
    """An image in memory, already as a data set would have stored it."""

    def __init__(self, image: NDArray[Any]) -> None:
        self._image = image
        self.size = (image.shape[1], image.shape[2])

    def read(self, start: int, stop: int) -> Rows:
        """The rows from ``start`` to before ``stop``, none of whose pixels is without value."""
        rows = self._image[:, start:stop]
        return Rows(rows, np.zeros(rows.shape[1:], dtype=bool))

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
        flags = {flag.name for band in dataset.mask_flag_enums for flag in band}
        self._masked = "per_dataset" in flags

    def read(self, start: int, stop: int) -> Rows:
        """The rows from ``start`` to before ``stop``; missing is what is nodata or NaN in all bands, or masked.

        Raises:
            DataError: the file is damaged there.
        """
        rasterio = load_rasterio()
        window = rasterio.windows.Window(0, start, self.size[1], stop - start)
        try:
            values = self.dataset.read(window=window)
            visible = self.dataset.dataset_mask(window=window) if self._masked else None
        except rasterio.errors.RasterioError as error:
            raise DataError(
                f"{self._path} cannot be read from row {start} to {stop} ({error}); replace the file or leave it out"
            ) from error
        missing: NDArray[np.bool_] = np.logical_and.reduce(self._raster(values).missing)  # over the bands
        return Rows(values, missing if visible is None else missing | (visible == 0))

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


def read_image(image: ImageFile, inputs: InputSpec) -> NDArray[Any]:
    """The whole image, (Ch, H, W), as ``preprocess`` would have stored it for the model.

    Raises:
        DataError: the file is damaged or too large to be read whole.
    """
    if image.kind == "raster":
        with open_raster_source(image, inputs) as source:
            check_pixels(source.size[1], source.size[0])
            return np.ascontiguousarray(source.stored(source.read(0, source.size[0]).values))
    file = RawFile(str(image.path), image.path.read_bytes())
    if image.kind == "array":
        return _stored(read_array(file), pixel_values(inputs))
    photograph = read_photograph(file)
    return decode_image(photograph.data, photograph.extension)


def read_batches(
    images: Sequence[ImageFile], inputs: InputSpec, *, batch_size: int, failures: list[str], description: str
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yields whole images by their names, some at a time, while it shows how far it is.

    Args:
        images: what is read; see ``read_image``.
        inputs: what the model takes.
        batch_size: how many at a time at most.
        failures: gets what is wrong with images that cannot be read; they are passed over.
        description: of the work.
    """
    batch: dict[str, NDArray[Any]] = {}
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
