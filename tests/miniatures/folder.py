"""The plain folder layout in miniature: photographs, 13-band arrays or 4-band GeoTIFFs, and the lists around them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from tests.miniatures.dfc2020 import write_raster

CLASSES = ("grass", "sand", "sea")
COLOURS = ((40, 160, 60), (220, 190, 110), (30, 60, 170))
NAMES = {"train": ("a", "b.v1", "c", "d", "e", "f"), "val": ("g", "h", "i")}
SIZES = ((24, 36), (32, 32), (36, 24), (25, 33), (24, 24))
"""Heights and widths, taken in turn."""


def write_folder(root: Path, *, images: Literal["photographs", "arrays", "geotiffs"] = "photographs") -> None:
    """Writes 6 images to train on and 3 to validate on; two classes are in each, left and right.

    Masks have 255 between the classes; ``i`` has none. Photographs are JPEGs, a grey and a palette PNG, and a BMP;
    their masks are palette or grey PNGs. Arrays are float32 reflectance (13, H, W), GeoTIFFs uint16 of 4 bands whose
    masks are GeoTIFFs too. ``labels.csv`` has a byte order mark, ``val.txt`` no last newline.
    """
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    names = [name for split in NAMES.values() for name in split]
    for number, name in enumerate(names):
        left, right = number % 3, (number + 1) % 3
        mask = np.full(SIZES[number % len(SIZES)], left, dtype=np.uint8)
        middle = mask.shape[1] // 2
        mask[:, middle:] = right
        mask[:, middle] = 255
        rows.append(f"{name},{CLASSES[left]};{CLASSES[right]}")
        write_image(root / "images" / name, colours(mask, seed=number), images=images)
        if name != "i":
            write_mask(root / "masks" / name, mask, geotiff=images == "geotiffs", palette=number % 2 == 0)
    table = "\ufeffimage,classes\r\n" + "\r\n".join(rows) + "\r\n"
    (root / "labels.csv").write_text(table, encoding="utf-8", newline="")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    for split, listed in NAMES.items():
        (root / "splits" / f"{split}.txt").write_text("\n".join(listed), encoding="utf-8")


def colours(mask: np.ndarray, *, seed: int) -> np.ndarray:
    """A noisy picture (H, W, 3) in which each class has its colour; its left half where the mask is 255."""
    filled = np.where(mask == 255, mask[0, 0], mask)
    noise = np.random.default_rng(seed).normal(0, 12, size=(*mask.shape, 3))
    picture: np.ndarray = (np.array(COLOURS)[filled] + noise).clip(0, 255).astype(np.uint8)
    return picture


def write_image(path: Path, picture: np.ndarray, *, images: str) -> None:
    """Writes a picture (H, W, 3) as one of the kinds of images; the suffix is added."""
    if images == "arrays":
        bands = picture.transpose(2, 0, 1).astype(np.float32) / 255
        np.save(path.parent / f"{path.name}.npy", bands[np.arange(13) % 3])
    elif images == "geotiffs":
        bands = picture.transpose(2, 0, 1).astype(np.uint16) * 39
        write_raster(path.parent / f"{path.name}.tif", bands[np.arange(4) % 3])
    elif path.name == "c":
        Image.fromarray(picture).convert("L").save(path.parent / "c.png")
    elif path.name == "d":
        Image.fromarray(picture).convert("P", palette=Image.Palette.ADAPTIVE).save(path.parent / "d.PNG")
    elif path.name == "e":
        Image.fromarray(picture).save(path.parent / "e.bmp")
    else:
        Image.fromarray(picture).save(path.parent / f"{path.name}.jpg")


def write_mask(path: Path, mask: np.ndarray, *, geotiff: bool = False, palette: bool = False) -> None:
    """Writes class indices (H, W) as a GeoTIFF, or as a palette or grey PNG; the suffix is added."""
    if geotiff:
        write_raster(path.parent / f"{path.name}.tif", mask[None], nodata=255)
        return
    image = Image.fromarray(mask)
    if palette:
        image.putpalette([value % 256 for value in range(7, 7 + 768)])
    image.save(path.parent / f"{path.name}.png")
