"""A miniature of ADE20K (ADEChallengeData2016), in the true layout and with the true files' oddities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ctm.data.datasets.ade20k import CLASS_NAMES

SCENES: Mapping[str, tuple[tuple[int, int], tuple[int, ...]]] = {
    "ADE_train_00000001": ((34, 45), (1, 4)),
    "ADE_train_00000002": ((29, 41), (3, 2, 150)),
    "ADE_train_00000003": ((40, 27), (3, 0)),
    "ADE_train_00000004": ((33, 33), (1, 2)),
    "ADE_train_00000005": ((48, 31), (4, 0, 1)),
    "ADE_train_00000006": ((25, 37), (2, 3)),
    "ADE_val_00000001": ((35, 46), (1, 0)),
    "ADE_val_00000002": ((31, 43), (2, 3, 4)),
    "ADE_val_00000003": ((45, 30), (3, 150)),
}
"""Height, width and annotated values of each image, from its top to its bottom."""
COLOURS = {
    0: (128, 128, 128),
    1: (200, 180, 150),
    2: (150, 60, 40),
    3: (90, 150, 230),
    4: (80, 60, 50),
    150: (220, 20, 120),
}
GREYSCALE, CMYK = "ADE_train_00000004", "ADE_train_00000006"
"""Images that are no RGB, as a few of the true set are."""
FOLDERS = {"train": "training", "val": "validation"}


def write_ade20k(root: Path) -> None:
    """Writes ``ADEChallengeData2016`` below ``root``, with 6 images of train and 3 of val."""
    home = root / "ADEChallengeData2016"
    for name, (size, values) in SCENES.items():
        folder = FOLDERS[name.split("_")[1]]
        pixels, mask = scene(size, values, seed=int(name[-4:]))
        mode = {GREYSCALE: "L", CMYK: "CMYK"}.get(name, "RGB")
        write_picture(home / "images" / folder / f"{name}.jpg", pixels, mode=mode)
        write_annotation(home / "annotations" / folder / f"{name}.png", mask)
    write_info(home / "objectInfo150.txt", len(CLASS_NAMES))
    (home / "sceneCategories.txt").write_text("".join(f"{name} airport_terminal\n" for name in SCENES))


def scene(size: tuple[int, int], values: tuple[int, ...], *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) of one strip a value, and its mask (H, W)."""
    rng = np.random.default_rng(seed)
    rows = np.arange(size[0]) * len(values) // size[0]
    mask = np.repeat(np.array(values, dtype=np.uint8)[rows][:, None], size[1], axis=1)
    colours = np.zeros((256, 3))
    for value, colour in COLOURS.items():
        colours[value] = colour
    return np.clip(colours[mask] + rng.normal(scale=12, size=(*size, 3)), 0, 255).astype(np.uint8), mask


def write_picture(path: Path, pixels: np.ndarray, *, mode: str = "RGB") -> None:
    """A JPEG in a colour mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, quality=95)


def write_annotation(path: Path, mask: np.ndarray) -> None:
    """A greyscale PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def write_info(path: Path, classes: int) -> None:
    """The table of the classes: separated by tabs, commas in the names, no end of the last line."""
    rows = [f"{k}\t0.0100\t100\t10\t{name}, synonym" for k, name in enumerate(CLASS_NAMES[:classes], start=1)]
    path.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
