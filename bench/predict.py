"""Memory and time of ``ctm predict`` on a raster that is larger than its model's input by far, and whether it is right.

The labels are compared with those of one forward pass over large windows of the raster, on pixels that neither a
tile's nor the window's border is near.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data import photograph
from bench.measure import resident_megabytes
from ctm.data.classes import ClassTable
from ctm.data.datasets.rasters import load_rasterio
from ctm.data.inputs import InputSpec
from ctm.models.segmenter import SegmenterSpec, build_segmenter, load_segmenter, save_segmenter
from ctm.predict.network import Network
from ctm.predict.tiling import tile_starts, tile_weights

__all__ = ["predict_lines", "write_raster", "write_segmenter"]

TILE = 256
REACH = 80
"""Labels are compared of pixels that come from one tile and are so far from its borders, which is further than the
network below sees (65 pixels)."""
CELL = 8
"""Pixels by which the network below reduces an image."""
WINDOW = 1024
SPEC = SegmenterSpec("unet", "resnet18", {"encoder_depth": 3, "decoder_channels": [32, 16, 16]})
INPUTS = InputSpec((TILE, TILE), 3, 1 / 255, values="bytes", stored_size=(TILE, TILE))
CLASSES = ClassTable(tuple(f"class {number}" for number in range(8)))
BLOCK = 2000


def predict_lines(*, sides: tuple[int, ...] = (2_500, 10_000), windows: int = 4) -> Iterator[str]:
    """Peak memory and time of ``ctm predict`` on square rasters of 3 bands, and how many labels are those of whole
    windows.

    Args:
        sides: of the rasters in pixels.
        windows: how many windows of the last raster are compared, evenly spread over its diagonal.
    """
    yield "\nctm predict on a GeoTIFF, 3 bands of 8 bits, 8 classes, UNet on ResNet-18, tiles of 256:"
    with TemporaryDirectory() as place:
        root = Path(place)
        write_segmenter(root / "model")
        for side in sides:
            write_raster(root / f"{side}.tif", side)
            start = perf_counter()
            peak = resident_megabytes(predict_command(root / "model", root / f"{side}.tif", root / f"masks{side}"))
            seconds = perf_counter() - start
            rate = side * side / seconds / 1e6
            yield f"  {side:>6,} x {side:<6,}{peak:>9.1f} MB{seconds:>8.1f} s{rate:>7.2f} Mpixel/s"
        same, compared = agreement(root / "model", root / f"{side}.tif", root / f"masks{side}" / f"{side}.tif", windows)
        yield f"  labels equal to those of whole windows: {same:,} of {compared:,} pixels away from borders"


def predict_command(model: Path, image: Path, out: Path) -> list[str | Path]:
    """``ctm predict`` as a command of its own, on the CPU."""
    ctm = Path(sys.executable).with_name("ctm")
    return [ctm, "predict", "--model", model, image, "--out", out, "--device", "cpu"]


def write_segmenter(folder: Path) -> None:
    """An untrained segmenter whose last layer is shifted so that no class is much likelier than the others."""
    torch.manual_seed(0)
    model: Any = build_segmenter(SPEC, INPUTS, num_classes=len(CLASSES.names)).eval()
    pixels = photograph(np.random.default_rng(1), (TILE, TILE)).transpose(2, 0, 1).astype(np.float32)
    with torch.no_grad():
        model.segmentation_head[0].bias -= model(torch.from_numpy(pixels)[None] / 255).mean(dim=(0, 2, 3))
    save_segmenter(folder, model, SPEC, classes=CLASSES, inputs=INPUTS)


def write_raster(path: Path, side: int) -> None:
    """A square GeoTIFF of 10 m pixels with structure at all scales, written block by block."""
    rasterio = load_rasterio()
    rng = np.random.default_rng(0)
    shape = {"count": 3, "height": side, "width": side, "dtype": "uint8"}
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "pixel"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **layout) as file:
        for top in range(0, side, BLOCK):
            for left in range(0, side, BLOCK):
                size = (min(BLOCK, side - top), min(BLOCK, side - left))
                block = photograph(rng, size).transpose(2, 0, 1)
                file.write(block, window=rasterio.windows.Window(left, top, size[1], size[0]))


def agreement(model: Path, image: Path, mask: Path, windows: int) -> tuple[int, int]:
    """Pixels whose label is that of a whole window, and those that were compared."""
    rasterio = load_rasterio()
    loaded, classes, inputs = load_segmenter(model)
    whole = Network(loaded, classes, replace(inputs, image_size=(WINDOW, WINDOW)), torch.device("cpu"), 1)
    same, compared = 0, 0
    with rasterio.open(image) as pixels, rasterio.open(mask) as labels:
        starts = tile_starts(labels.height, TILE)
        corners = [start for start in starts if start + WINDOW <= labels.height]  # where the network's cells begin, too
        for place in np.linspace(0, len(corners) - 1, windows).astype(int).tolist():
            corner = corners[place]
            window = rasterio.windows.Window(corner, corner, WINDOW, WINDOW)
            expected = whole.logits([pixels.read(window=window)])[0].argmax(dim=0).numpy()
            away = _away(starts, corner)
            same += int((labels.read(1, window=window) == expected)[away].sum())
            compared += int(away.sum())
    return same, compared


def _away(starts: list[int], corner: int) -> NDArray[np.bool_]:
    """Pixels of a window on the diagonal that are near no border of their one tile or of the window."""
    pixels = np.arange(corner, corner + WINDOW)
    inside = np.zeros(starts[-1] + TILE, dtype=bool)
    for start, weights in zip(starts, tile_weights(starts, TILE), strict=True):
        if start % CELL == 0:  # in the last tile, which ends with the image, the network's cells may lie elsewhere
            inside[start + REACH : start + TILE - REACH] |= weights[REACH:-REACH] == 1
    wanted = inside[pixels] & (pixels >= corner + REACH) & (pixels < corner + WINDOW - REACH)
    away: NDArray[np.bool_] = wanted[:, None] & wanted[None, :]
    return away
