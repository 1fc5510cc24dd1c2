"""DFC2020 in miniature: both seasons, all four rasters of a patch, and everything odd that the real set holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

SUFFIXES = {"train": "0", "val": "validation"}
"""Suffixes of the sensors' folders, as distributed; ``validation`` is often renamed to ``0``."""
SEASONS = {"train": "ROIs0000_test", "val": "ROIs0000_validation"}
NUMBERS = {"train": (2, 10, 11, 12, 13, 14), "val": (2, 10, 11)}
SIZE = 24
IDS = (1, 2, 4, 5, 6, 7, 9, 10)
"""Land-cover ids of the eight classes."""
CRS = "EPSG:32632"


def write_dfc2020(root: Path, *, suffixes: Mapping[str, str] = SUFFIXES) -> None:
    """Writes 6 patches to train on and 3 to validate on, 24 pixels a side.

    Every patch is half water (10); the left half of patch n is class n of ``IDS``, in colours of its own. In the top
    rows: 10 % wetlands (5) less a pixel, and pixels of the ignored ids 0, 3 and 8. Sentinel-2 exceeds 10000 in one
    pixel, Sentinel-1 has -40, 3 and NaN dB in the first row of VV.
    """
    for split, season in SEASONS.items():
        for patch in NUMBERS[split]:
            for sensor, raster in patch_rasters(patch).items():
                folder = root / season / f"{sensor}_{suffixes[split]}"
                # Patches lie side by side on the ground, the seasons far apart.
                place = (SIZE * patch, 0 if split == "train" else 10_000)
                write_raster(folder / f"{season}_{sensor}_0_p{patch}.tif", raster, place=place)


def patch_rasters(patch: int) -> dict[str, np.ndarray]:
    """The rasters of a patch by sensor, (bands, H, W)."""
    rng = np.random.default_rng(patch)
    dfc = np.full((SIZE, SIZE), 10, dtype=np.int32)
    dfc[:, : SIZE // 2] = IDS[patch % len(IDS)]
    dfc[0] = dfc[1] = 5
    dfc[2, :9] = 5  # 57 of 576 pixels: just under a tenth
    dfc[3, :3] = (0, 3, 8)
    spectra = np.random.default_rng(0).uniform(0.1, 0.8, size=(11, 15))
    image = spectra[dfc].transpose(2, 0, 1) + rng.normal(0, 0.02, size=(15, SIZE, SIZE))
    s2 = (image[:13].clip(0, 1) * 9000).astype(np.uint16)
    s2[10] = 12  # almost flat in the real data
    s2[3, 0, 0] = 12345
    s1 = image[13:].clip(0.01, 0.99) * 25 - 25
    s1[0, 0, :3] = (-40, 3, np.nan)
    lc = np.zeros((4, SIZE, SIZE), dtype=np.uint16)
    return {"s2": s2, "s1": s1, "dfc": dfc[None], "lc": lc}


def write_raster(
    path: Path,
    raster: np.ndarray,
    *,
    place: tuple[float, float] | None = (0, 0),
    crs: str = CRS,
    nodata: float | None = None,
) -> None:
    """Writes a GeoTIFF of pixels of 10 m that lies ``place`` pixels east and north; None: it does not say where."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra 'data'")
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = raster.shape
    profile = {"count": bands, "height": height, "width": width, "dtype": raster.dtype.name, "nodata": nodata}
    if place is not None:
        east, north = place
        profile |= {
            "crs": crs,
            "transform": rasterio.Affine(10, 0, 500_000 + 10 * east, 0, -10, 5_000_000 + 10 * north),
        }
    with rasterio.open(path, "w", driver="GTiff", **profile) as file:
        file.write(raster)
