"""Reader of DFC2020 (IEEE GRSS Data Fusion Contest 2020): Sentinel-2 and Sentinel-1 patches with 10 m land cover.

Image-level labels are made from the land cover: a class is present where it covers enough of the patch (the paper,
Hanna & Borth, ICCV 2025, says 10 %, after Schmitt & Wu, arXiv 2104.00704).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.config import DatasetConfig
from ctm.data.datasets.listing import entries_of, problem
from ctm.data.datasets.rasters import Raster, check_same_grid, read_raster
from ctm.data.datasets.reader import (
    Entry,
    Problem,
    RawDataset,
    RawFile,
    check_channels,
    known_classes,
    present_labels,
)
from ctm.data.libraries import load_rasterio
from ctm.data.sample import Sample, StoredImage, encode_array
from ctm.errors import DataError
from ctm.runtime.storage import Tree

__all__ = [
    "BANDS",
    "CLASS_NAMES",
    "FULL_SCALE",
    "LOWEST_DB",
    "SEASONS",
    "open_dfc2020",
    "stored_image",
]

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
NO_DATA_ID = 0
SEASONS = {"train": "ROIs0000_test", "val": "ROIs0000_validation"}
"""The folder of each split: by convention the contest's larger test season is trained on."""
BANDS = {"s2": 13, "s1": 2, "dfc": 1}
FULL_SCALE = 10_000
"""Stored value of reflectance 1, and of a backscatter of 0 dB."""
LOWEST_DB = -25.0
PATCH = re.compile(
    rf"(?:^|/)(?P<season>{'|'.join(SEASONS.values())})/(?P<sensor>{'|'.join(BANDS)})_[^/]*"
    r"/[^/]*_(?P=sensor)_[^/]*_p(?P<number>\d+)\.tif$"
)
"""A raster's path, whatever the suffix of its sensor's folder."""
CONTEST = re.compile(r"(?:^|/)s[12]/[^/]+\.tif$")
"""A raster of the contest's unlabelled form."""


def open_dfc2020(config: DatasetConfig, tree: Tree) -> RawDataset:
    """DFC2020 in the SEN12MS layout, in both spellings of its folders (``s2_validation`` and ``s2_0``).

    Where the files lie, at the root or any number of folders below::

        ROIs0000_validation/s2_validation/ROIs0000_validation_s2_0_p0.tif    with s1_*, dfc_* beside it
        ROIs0000_test/s2_0/ROIs0000_test_s2_0_p0.tif

    Images are stored as one 16-bit array (15, H, W): the 13 bands of Sentinel-2, 0..10000, then VV and VH of
    Sentinel-1, -25..0 dB mapped to 0..10000. With ``scaling: image_max`` the 13 bands together, and the two, are
    divided by their own maximum in the image instead, as the paper's release does. The low-resolution ``lc_*`` are not
    read.

    Raises:
        DataError: a season is missing, or one of its sensors altogether.
        ParamsError: the configuration contradicts the format.
    """
    channels = BANDS["s2"] + BANDS["s1"]
    check_channels(config, channels)
    classes = known_classes(CLASS_NAMES, config)
    load_rasterio()
    problems: list[Problem] = []
    splits: dict[str, list[Entry]] = {}
    for split, rasters in _rasters(tree).items():
        patches = (_patch(tree, SEASONS[split], number, rasters=rasters[number]) for number in sorted(rasters))
        splits[split] = entries_of(patches, problems=problems)
    return RawDataset(
        classes=classes,
        channels=channels,
        scale=1 / FULL_SCALE,
        splits=splits,
        decode=_Decode(classes, config.min_label_fraction, by_maximum=config.scaling == "image_max"),
        problems=problems,
        values="dfc2020_image_max" if config.scaling == "image_max" else "dfc2020",
    )


def _rasters(tree: Tree) -> dict[str, dict[int, dict[str, list[str]]]]:
    """Paths by split, patch number and sensor."""
    seasons: dict[str, dict[int, dict[str, list[str]]]] = {season: defaultdict(dict) for season in SEASONS.values()}
    for path in tree.files:
        match = PATCH.search(path)
        if match is not None:
            patch = seasons[match["season"]][int(match["number"])]
            patch.setdefault(match["sensor"], []).append(path)
    for season, patches in seasons.items():
        missing = [sensor for sensor in BANDS if not any(sensor in patch for patch in patches.values())]
        if missing:
            raise _no_rasters(tree, season, missing)
    return {split: seasons[season] for split, season in SEASONS.items()}


def _no_rasters(tree: Tree, season: str, missing: list[str]) -> DataError:
    needed = f"DFC2020 needs {' and '.join(SEASONS.values())}, each with s2_*, s1_* and dfc_*"
    if any(CONTEST.search(path) for path in tree.files):
        return DataError(
            f"{tree.uri} holds the contest's unlabelled form (flat s1/ and s2/), without the land cover that makes the "
            f"labels; get the labelled release: {needed}"
        )
    if not any(f"/{season}/" in f"/{path}" for path in tree.files):
        return DataError(f"{tree.uri} holds no folder {season}; {needed}")
    files = " and ".join(f"{sensor}_*/*_{sensor}_*_p*.tif" for sensor in missing)
    return DataError(f"{season} in {tree.uri} holds no file {files}; {needed}")


def _patch(tree: Tree, season: str, number: int, *, rasters: Mapping[str, list[str]]) -> Entry | Problem:
    for sensor, paths in rasters.items():
        if len(paths) > 1:
            places = " and ".join(map(tree.place, paths))
            return Problem(paths[1], f"patch {number} of {season} has its {sensor} raster twice: {places}; remove one")
    files = {sensor: rasters[sensor][0] for sensor in BANDS if sensor in rasters}
    missing = [sensor for sensor in BANDS if sensor not in files]
    if missing:
        sensor, path = next(iter(files.items()))
        name = path.rpartition("/")[2].replace(f"_{sensor}_", f"_{missing[0]}_")
        return problem(tree, path, f"its partner {missing[0]}_*/{name} is missing; add it or remove the patch")
    return Entry(f"{season}_p{number}", files)


@dataclass(frozen=True)
class _Decode:
    """Reads one patch."""

    classes: ClassTable
    min_label_fraction: float
    by_maximum: bool

    def __call__(self, entry: Entry, files: Mapping[str, RawFile]) -> Sample:
        rasters = {sensor: read_raster(files[sensor], bands=bands) for sensor, bands in BANDS.items()}
        check_same_grid(rasters)
        mask = _train_ids(rasters["dfc"])
        _check_integers(rasters["s2"])
        image, notes = stored_image(rasters["s2"], rasters["s1"], by_maximum=self.by_maximum)
        labels = present_labels(mask, self.classes, min_fraction=self.min_label_fraction)
        stored = StoredImage(encode_array(image), "npy", rasters["s2"].size, notes, rasters["s2"].georeference)
        return stored.sample(entry.key, labels=labels, mask=mask)


def stored_image(s2: Raster, s1: Raster, *, by_maximum: bool) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    """The image as it is stored, (15, H, W) in 0..10000, and what was mended.

    Args:
        s2: 13 bands of Sentinel-2, reflectance times 10000.
        s1: VV and VH of Sentinel-1, decibels.
        by_maximum: divide the bands of each by their own maximum here, instead of by the fixed range.
    """
    reflectance, s2_notes = _within(
        s2,
        0,
        FULL_SCALE,
        "pixels without reflectance (nodata), taken as 0",
        f"reflectance outside 0..{FULL_SCALE}, clipped",
    )
    backscatter, s1_notes = _within(
        s1,
        LOWEST_DB,
        0,
        "pixels without backscatter (NaN), taken as the darkest",
        f"backscatter outside {LOWEST_DB:.0f}..0 dB, clipped",
    )
    if by_maximum:
        reflectance, backscatter = reflectance / max(reflectance.max(), 1), backscatter / max(backscatter.max(), 1e-9)
    else:
        reflectance, backscatter = reflectance / FULL_SCALE, backscatter / -LOWEST_DB
    image = np.rint(np.concatenate([reflectance, backscatter]) * FULL_SCALE).astype(np.uint16)
    return image, s2_notes + s1_notes


def _check_integers(raster: Raster) -> None:
    if raster.array.dtype.kind not in "iu":
        raise DataError(
            f"{raster.file.path} holds {raster.array.dtype} values; expected integers, reflectance times {FULL_SCALE}"
        )


def _train_ids(raster: Raster) -> NDArray[np.uint8]:
    """The land cover as mask values, (H, W)."""
    ids = np.where(raster.missing[0], NO_DATA_ID, raster.array[0])
    wrong = sorted(set(np.unique(ids).tolist()) - set(range(len(TRAIN_IDS))))
    if wrong:
        raise DataError(f"{raster.file.path}: land cover ids {wrong} are unknown; valid are 0 to {len(TRAIN_IDS) - 1}")
    return TRAIN_IDS[ids.astype(np.intp)]


def _within(
    raster: Raster, lowest: float, highest: float, missing: str, outside: str
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Values above the lowest, which pixels without value get, and what was mended, in the words given."""
    values = np.where(raster.missing, lowest, raster.array).astype(np.float64)
    clipped = np.clip(values, lowest, highest)
    mended = {missing: raster.missing.any(), outside: (clipped != values).any()}
    return clipped - lowest, tuple(note for note, is_so in mended.items() if is_so)
