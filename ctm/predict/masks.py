"""Masks of new images by a segmenter: palette PNGs of photographs and arrays, GeoTIFFs of GeoTIFFs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE
from ctm.data.mask_files import write_mask_geotiff, write_mask_png
from ctm.errors import DataError
from ctm.models.native_mask import native_mask
from ctm.predict.images import ImageFile, report_failures
from ctm.predict.mask_folder import open_mask_folder
from ctm.predict.network import Network
from ctm.predict.sources import ArraySource, RasterSource, Source, open_raster_source, read_batches, read_image
from ctm.predict.tiling import tile_starts, tiled_mask
from ctm.runtime.outputs import staged_outputs
from ctm.runtime.progress import track

__all__ = ["predict_masks"]

logger = logging.getLogger(__name__)

LAYOUT = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "bigtiff": "if_safer"}
"""How GeoTIFFs are laid out: programs show a part without reading the whole."""


def predict_masks(images: Sequence[ImageFile], network: Network, folder: Path, *, tile: int | None = None) -> int:
    """Writes a mask for every image, each whole or not at all: ``<name>.tif`` for a GeoTIFF, else ``<name>.png``.

    Photographs and arrays are seen whole, resized to the model's input as ``evaluate`` does, unless ``tile`` is given.
    GeoTIFFs keep their ground resolution and are seen in tiles, see ``tiled_mask``; their masks have their place on
    Earth.

    Args:
        images: what is segmented; see ``find_images``.
        network: the segmenter.
        folder: where the masks go; it must not exist, be empty, or hold nothing but masks of these images by the same
            network. These are kept, but for masks that are older than their image.
        tile: height of a tile in pixels of the image; None for the usual size of the training images.

    Returns:
        The number of masks that were written.

    Raises:
        ArtifactError: ``folder`` holds other files, or masks that were made otherwise.
        DataError: images could not be read to their end, which are named; those of all others are written.
        StorageError: the disk does not take a GeoTIFF.
    """
    count, images = len(images), open_mask_folder(folder, images, made_by={"model": network.digest, "tile": tile})
    if len(images) < count:
        logger.info("%d of %d masks are there already", count - len(images), count)
    tiled = [image for image in images if tile is not None or image.kind == "raster"]
    whole = [image for image in images if tile is None and image.kind != "raster"]
    failures = _predict_whole(whole, network, folder)
    for image in tiled:
        try:
            _predict_tiled(image, network, folder, tile=network.tile_size(tile))
        except DataError as error:
            failures.append(str(error))
    report_failures(failures, images, folder)
    return len(images)


def _predict_whole(images: Sequence[ImageFile], network: Network, folder: Path) -> list[str]:
    """Masks of images that are seen whole; what is wrong with those that have none."""
    failures: list[str] = []
    batches = read_batches(
        images, network.inputs, batch_size=network.batch_size, failures=failures, description="masks"
    )
    for batch in batches:
        found = network.logits([image.pixels for image in batch.values()])
        for (name, image), logits in zip(batch.items(), found, strict=True):
            mask = native_mask(logits, image.missing.shape)
            mask[image.missing] = IGNORE
            _write_png(folder / f"{name}.png", mask, network)
    return failures


def _predict_tiled(image: ImageFile, network: Network, folder: Path, *, tile: tuple[int, int]) -> None:
    if image.kind == "raster":
        with open_raster_source(image, network.inputs) as source:
            _write_geotiff(folder / f"{image.name}.tif", source, _tracked(image, source, network, tile), network)
    else:
        pixels = ArraySource(read_image(image, network.inputs))
        _write_png(folder / f"{image.name}.png", np.concatenate([*_tracked(image, pixels, network, tile)]), network)


def _tracked(image: ImageFile, source: Source, network: Network, tile: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """The bands of the mask, with the progress shown."""
    bands = tiled_mask(source, network, tile)
    return track(bands, description=image.path.name, total=len(tile_starts(source.size[0], tile[0])), unit="row")


def _write_png(path: Path, mask: NDArray[np.uint8], network: Network) -> None:
    with staged_outputs({"mask": path}) as staged:
        write_mask_png(staged["mask"], mask, network.classes)


def _write_geotiff(path: Path, source: RasterSource, bands: Iterator[NDArray[np.uint8]], network: Network) -> None:
    """Writes the bands of a mask as they come, on the grid of the raster that they are made of."""
    given = source.dataset
    where = {} if given.transform.is_identity else {"transform": given.transform}
    with staged_outputs({"mask": path}) as staged:
        write_mask_geotiff(
            staged["mask"], bands, source.size, network.classes, shown=path, crs=given.crs, **where, **LAYOUT
        )
