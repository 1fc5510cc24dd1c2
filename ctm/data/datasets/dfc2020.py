"""Reader of DFC2020 (IEEE GRSS Data Fusion Contest 2020): Sentinel-2 and Sentinel-1 patches with 10 m land cover.

Image-level labels are made from the land cover: a class is present where it covers enough of the patch (the paper,
Hanna & Borth, ICCV 2025, says 10 %, after Schmitt & Wu, arXiv 2104.00704).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE
from ctm.data.config import DatasetConfig
from ctm.data.datasets.reader import check_channels, class_table
from ctm.data.sample import Sample, encode_array
from ctm.errors import DataError, ParamsError

__all__ = ["CLASS_NAMES", "SEASONS", "TRAIN_IDS", "Dfc2020Reader", "load_rasterio"]

CLASS_NAMES = (
    "Forest",
    "Shrubland",
    "Grassland",
    "Wetlands",
    "Croplands",
    "Urban/Built-up",
    "Barren",
    "Water",
)
TRAIN_IDS = np.array([IGNORE, 0, 1, IGNORE, 2, 3, 4, 5, IGNORE, 6, 7], dtype=np.uint8)
"""Mask value of each id in the ``dfc`` rasters; no data (0), savanna (3) and snow (8) are ignored."""
SEASONS = {"train": "ROIs0000_test", "val": "ROIs0000_validation"}
"""The folder of each split: by convention the contest's larger test season is trained on."""
BANDS = {"s2": 13, "s1": 2, "dfc": 1}
FULL_SCALE = 10_000
"""Stored value of reflectance 1, and of a backscatter of 0 dB."""
LOWEST_DB = -25.0


class Dfc2020Reader:
    """DFC2020 in the SEN12MS layout, in both spellings of its folders (``s2_validation`` and ``s2_0``).

    Where the files lie::

        ROIs0000_validation/s2_validation/ROIs0000_validation_s2_0_p0.tif    with s1_*, dfc_* beside it
        ROIs0000_test/s2_0/ROIs0000_test_s2_0_p0.tif

    Images are stored as one 16-bit array (15, H, W): the 13 bands of Sentinel-2 as they are, clipped to 0..10000,
    then VV and VH of Sentinel-1, -25..0 dB mapped to 0..10000.

    Attributes:
        classes: the eight land covers that the patches hold.
        channels: 15.
        scale: 1e-4.
    """

    channels = 15
    scale = 1e-4

    def __init__(self, config: DatasetConfig, root: Path) -> None:
        """Lists the patches; they are read one by one later.

        Raises:
            DataError: a season is missing or empty, or a patch lacks one of its rasters.
            ParamsError: the configuration contradicts the format.
        """
        check_channels(config, self.channels)
        names = config.classes or CLASS_NAMES
        if len(names) != len(CLASS_NAMES):
            raise ParamsError(f"dataset.classes has {len(names)} names; DFC2020 has {', '.join(CLASS_NAMES)}")
        self.classes = class_table(names, config)
        self._min_label_fraction = config.min_label_fraction
        load_rasterio()
        self._patches = {split: _patches(_season_folder(root, season)) for split, season in SEASONS.items()}

    def splits(self) -> Mapping[str, Sequence[str]]:
        """The patches of ``train`` and ``val`` in ascending number."""
        return {split: list(patches) for split, patches in self._patches.items()}

    def read(self, split: str, key: str) -> Sample:
        """Reads one patch.

        Raises:
            DataError: a raster is unreadable, has other bands than expected or another size than its partners, or the
                land cover holds an unknown id.
        """
        paths = self._patches[split][key]
        rasters = {sensor: _read_raster(path, bands=BANDS[sensor]) for sensor, path in paths.items()}
        _check_sizes(paths, rasters)
        mask = _train_ids(rasters["dfc"][0], paths["dfc"])
        image = np.concatenate([_stored_s2(rasters["s2"], paths["s2"]), _stored_s1(rasters["s1"])])  # (15, H, W)
        height, width = mask.shape
        return Sample(key, encode_array(image), "npy", height, width, labels=self._present(mask), mask=mask)

    def _present(self, mask: NDArray[np.uint8]) -> tuple[int, ...]:
        """Classes that cover at least the wanted fraction of ALL pixels, ignored ones included."""
        pixels = np.bincount(mask.ravel(), minlength=256)
        least = max(1.0, self._min_label_fraction * mask.size)
        return tuple(k for k in self.classes.tokens if pixels[k] >= least)


def load_rasterio() -> Any:
    """Imports rasterio, which only GeoTIFF data sets need.

    Raises:
        DataError: it is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise DataError("GeoTIFF data need rasterio, which is not installed: pip install 'ctm[geo]'") from error
    return rasterio


def _season_folder(root: Path, season: str) -> Path:
    """The season's folder in ``root`` or one folder below; copies from zip files nest it in one of its own name."""
    for folder in (root / season, *sorted(root.glob(f"*/{season}"))):
        if (folder / season).is_dir():
            return folder / season
        if folder.is_dir():
            return folder
    raise DataError(
        f"{root} holds no folder {season}; DFC2020 needs {' and '.join(SEASONS.values())}, each with s1_*, s2_*, dfc_*"
    )


def _patches(season: Path) -> dict[str, dict[str, Path]]:
    """The rasters of each patch by sensor, in ascending patch number."""
    rasters = {sensor: _rasters(season, sensor) for sensor in BANDS}
    if not rasters["s2"]:
        raise DataError(f"{season} is empty: no file s2_*/*_s2_*_p*.tif in it")
    patches = {}
    for number, path in sorted(rasters["s2"].items()):
        for sensor in BANDS:
            if number not in rasters[sensor]:
                raise DataError(
                    f"{path} has no partner {sensor}_*/{path.name.replace('_s2_', f'_{sensor}_')} in {season}; "
                    "add it or remove the patch"
                )
        patches[f"{season.name}_p{number}"] = {sensor: rasters[sensor][number] for sensor in BANDS}
    return patches


def _rasters(season: Path, sensor: str) -> dict[int, Path]:
    """The rasters of a sensor by patch number, whatever the folder's suffix."""
    rasters: dict[int, Path] = {}
    for path in sorted(season.glob(f"{sensor}_*/*_{sensor}_*_p*.tif")):
        match = re.search(r"_p(\d+)\.tif$", path.name)
        if match is None:
            continue
        number = int(match[1])
        if number in rasters:
            raise DataError(f"patch {number} lies twice in {season}: {rasters[number]} and {path}; remove one")
        rasters[number] = path
    return rasters


def _read_raster(path: Path, *, bands: int) -> NDArray[Any]:
    """All bands of a raster, (bands, H, W)."""
    rasterio = load_rasterio()
    try:
        with warnings.catch_warnings():
            # Only pixels are read: a copy that lost its georeference is as good.
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path) as raster:
                array: NDArray[Any] = raster.read()
    except rasterio.errors.RasterioError as error:
        raise DataError(f"{path} is no readable raster ({error}); replace the file or remove the patch") from error
    if array.shape[0] != bands:
        raise DataError(f"{path} has {array.shape[0]} bands, expected {bands}; is it a raster of DFC2020?")
    return array


def _check_sizes(paths: Mapping[str, Path], rasters: Mapping[str, NDArray[Any]]) -> None:
    sizes = {sensor: raster.shape[1:] for sensor, raster in rasters.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"{paths['s2']} and its partners differ in size (height, width): {sizes}")


def _train_ids(ids: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    wrong = sorted(set(np.unique(ids).tolist()) - set(range(len(TRAIN_IDS))))
    if wrong:
        raise DataError(f"{path}: land cover ids {wrong} are unknown; valid are 0 to {len(TRAIN_IDS) - 1}")
    return TRAIN_IDS[ids.astype(np.intp)]


def _stored_s2(bands: NDArray[Any], path: Path) -> NDArray[np.uint16]:
    if bands.dtype.kind not in "iu":
        raise DataError(f"{path} holds {bands.dtype} values; expected integers, reflectance times {FULL_SCALE}")
    clipped: NDArray[np.uint16] = np.clip(bands, 0, FULL_SCALE).astype(np.uint16)
    return clipped


def _stored_s1(decibels: NDArray[Any]) -> NDArray[np.uint16]:
    """Backscatter in dB to 16 bits; a pixel without value counts as the darkest."""
    clipped = np.clip(np.nan_to_num(decibels.astype(np.float64), nan=LOWEST_DB), LOWEST_DB, 0)
    stored: NDArray[np.uint16] = np.rint((clipped - LOWEST_DB) / -LOWEST_DB * FULL_SCALE).astype(np.uint16)
    return stored
