"""Synthetic land-cover scenes in the layout of DFC2020: a data set anyone can make in seconds, for a first run.

A scene has 1 to 4 of the eight classes in smooth random regions. Every class has one spectral signature in the whole
set; gain, texture and noise make single pixels ambiguous, so that a method has something to learn.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctm.data.datasets.dfc2020 import BANDS, FULL_SCALE, LOWEST_DB, SEASONS
from ctm.data.libraries import load_rasterio
from ctm.errors import DataError
from ctm.runtime.outputs import check_no_folder, staged_outputs
from ctm.runtime.progress import track

__all__ = ["DFC_IDS", "MARKER", "write_demo", "write_demo_scene"]

logger = logging.getLogger(__name__)

DFC_IDS = np.array([1, 2, 4, 5, 6, 7, 9, 10], dtype=np.uint8)
"""Land-cover ids of the eight classes, as the ``dfc`` rasters store them."""
MARKER = "demo.json"
VERSION = 1
MAX_CLASSES = 4
GAIN = 0.3
TEXTURE = 0.12
NOISE = 0.12
SIZE = 64
"""Height and width of a scene in pixels."""
REGION_SHARE = 0.2
"""Deviation of the smoothing kernel as a fraction of the scene's side."""
FOLDER_SUFFIX = {"train": "0", "val": "validation"}
"""The contest's own two spellings of the sensors' folders."""
PIXEL_METRES = 10.0


def write_demo(root: Path, *, train: int = 800, val: int = 200, size: int = SIZE, seed: int = 0) -> None:
    """Writes the demo data set to ``root``, whole or not at all; does nothing where it is there already.

    The same settings give the same bytes. A demo with other settings is replaced.

    Args:
        root: folder of the data set.
        train: number of scenes to train on.
        val: number of scenes to validate on.
        size: height and width of a scene in pixels.
        seed: seed of all random numbers.

    Raises:
        DataError: ``root`` holds something else than a demo, or rasterio is missing.
    """
    settings = json.dumps({"version": VERSION, "train": train, "val": val, "size": size, "seed": seed}) + "\n"
    marker = root / MARKER
    if marker.is_file() and marker.read_text(encoding="utf-8") == settings:
        logger.info("the demo data set is complete in %s", root)
        return
    if root.exists() and not marker.is_file() and any(root.iterdir()):
        raise DataError(f"{root} holds files that are no demo data set; choose another folder or empty it")
    with staged_outputs({"demo": root}) as staged:
        _write_scenes(staged["demo"], {"train": train, "val": val}, size=size, seed=seed)
        (staged["demo"] / MARKER).write_text(settings, encoding="utf-8")


def write_demo_scene(path: Path, *, size: int = 1024, seed: int = 0) -> None:
    """Writes one large scene with all eight classes, as a GeoTIFF of float32 that a model of the demo can predict.

    Args:
        path: file to write; one that is there is replaced.
        size: height and width in pixels.
        seed: seed of the demo whose land cover it shows.

    Raises:
        ArtifactError: ``path`` is a folder.
    """
    check_no_folder(path)
    rng = np.random.default_rng([seed, 3])  # no scene's stream, nor that of the signatures
    classes = _regions(rng, len(DFC_IDS), size=size, share=REGION_SHARE * SIZE / size)
    rasters = _rasters(classes, _image(rng, classes, signatures=_signatures(seed)))
    with staged_outputs({"scene": path}) as staged:
        scene = np.concatenate([rasters["s2"], rasters["s1"]]).astype(np.float32)
        _write_raster(staged["scene"], scene, place=(0, 0))


def _write_scenes(root: Path, counts: Mapping[str, int], *, size: int, seed: int) -> None:
    signatures = _signatures(seed)
    root.mkdir(parents=True)
    for split_number, (split, count) in enumerate(counts.items()):
        season = SEASONS[split]
        folders = {sensor: root / season / f"{sensor}_{FOLDER_SUFFIX[split]}" for sensor in BANDS}
        for folder in folders.values():
            folder.mkdir(parents=True)
        for patch in track(range(count), description=f"demo scenes of {split}", total=count):
            # A generator a scene: the first scenes do not depend on how many follow.
            rng = np.random.default_rng([seed, split_number, patch])
            place = (split_number * size * PIXEL_METRES, patch * size * PIXEL_METRES)
            for sensor, raster in _rasters(*_scene(rng, size=size, signatures=signatures)).items():
                _write_raster(folders[sensor] / f"{season}_{sensor}_0_p{patch}.tif", raster, place=place)


def _rasters(classes: NDArray[np.intp], image: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """A scene as its sensors' rasters, (bands, H, W): reflectance times 10000, decibels, land-cover ids."""
    return {
        "s2": np.rint(image[: BANDS["s2"]] * FULL_SCALE).astype(np.uint16),
        "s1": image[BANDS["s2"] :] * -LOWEST_DB + LOWEST_DB,
        "dfc": DFC_IDS[classes][None],
    }


def _signatures(seed: int) -> NDArray[np.float64]:
    """The spectrum of each class, (8, 15)."""
    # Scenes use [seed, 0 or 1, patch]. [seed] alone would be the first scene's stream: numpy pads seeds with zeros.
    rng = np.random.default_rng([seed, 2])
    return rng.uniform(0.05, 0.6, size=(len(DFC_IDS), BANDS["s2"] + BANDS["s1"]))


def _scene(
    rng: np.random.Generator, *, size: int, signatures: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Classes (H, W) as rows of ``signatures``, and the image (15, H, W) in 0..1."""
    number = int(rng.integers(1, MAX_CLASSES, endpoint=True))
    classes = _regions(rng, number, size=size, share=REGION_SHARE)
    return classes, _image(rng, classes, signatures=signatures)


def _regions(rng: np.random.Generator, number: int, *, size: int, share: float) -> NDArray[np.intp]:
    """``number`` of the classes in smooth random regions, (H, W)."""
    chosen = rng.choice(len(DFC_IDS), size=number, replace=False)
    regions: NDArray[np.intp] = chosen[_smooth(rng.standard_normal((number, size, size)), share=share).argmax(axis=0)]
    return regions


def _image(
    rng: np.random.Generator, classes: NDArray[np.intp], *, signatures: NDArray[np.float64]
) -> NDArray[np.float64]:
    image = signatures[classes].transpose(2, 0, 1)  # (15, H, W)
    image *= rng.uniform(1 - GAIN, 1 + GAIN, size=(len(image), 1, 1))
    image *= 1 + TEXTURE * rng.standard_normal((1, *classes.shape))
    image += NOISE * rng.standard_normal(image.shape)
    return np.clip(image, 0, 1)


def _smooth(fields: NDArray[np.float64], *, share: float) -> NDArray[np.float64]:
    """Gaussian smoothing of fields (K, H, W), each brought to mean 0 and deviation 1; edges wrap around.

    With one mean and deviation for all, every class of a scene gets a comparable share of it.
    """
    size = fields.shape[-1]
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    kernel = np.exp(-2 * (np.pi * share * size) ** 2 * (rows**2 + columns**2))
    kernel[0, 0] = 0  # the mean
    smooth: NDArray[np.float64] = np.fft.irfft2(np.fft.rfft2(fields) * kernel, s=(size, size))
    smooth /= smooth.std(axis=(1, 2), keepdims=True)
    return smooth


def _write_raster(path: Path, raster: NDArray[Any], *, place: tuple[float, float]) -> None:
    """Writes a GeoTIFF whose upper left corner lies ``place`` metres north and east of a corner of UTM zone 32."""
    rasterio = load_rasterio()
    bands, height, width = raster.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": raster.dtype.name}
    corner = rasterio.Affine(PIXEL_METRES, 0, 500_000 + place[1], 0, -PIXEL_METRES, 5_000_000 + place[0])
    with rasterio.open(path, "w", crs="EPSG:32632", transform=corner, **profile) as file:
        file.write(raster)
