"""A miniature of HyperKvasir in its true layout: 25 photographs of eight findings, polyps with and without a mask."""

from __future__ import annotations

import csv
import json
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctm.data.datasets.endotect import OFFICIAL_NAMES

FOLDERS = {
    "polyps": ("lower", "pathological-findings", 8),
    "ulcerative-colitis-grade-2": ("lower", "pathological-findings", 3),
    "hemorrhoids": ("lower", "pathological-findings", 2),
    "cecum": ("lower", "anatomical-landmarks", 4),
    "bbps-0-1": ("lower", "quality-of-mucosal-views", 3),
    "pylorus": ("upper", "anatomical-landmarks", 2),
    "barretts-short-segment": ("upper", "pathological-findings", 1),
    "esophagitis-a": ("upper", "pathological-findings", 2),
}
"""Tract, category and number of images of each finding."""
WITHOUT_MASK = 7
"""The one polyp, by its number, that has no mask."""
EMPTY_MASK = 6
"""The one polyp whose mask is black all over."""


def name(finding: str, number: int) -> str:
    """The name of an image without suffix, which is a UUID as in the release."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{finding}/{number}"))


def size(number: int) -> tuple[int, int]:
    """Height and width of an image; no two are alike, as in the release."""
    return 33 + number, 45 - number


def polyp(number: int) -> NDArray[np.bool_]:
    """Where the polyp is in an image, (H, W)."""
    height, width = size(number)
    rows, columns = np.mgrid[:height, :width]
    inside: NDArray[np.bool_] = (rows - height / 2) ** 2 + (columns - 12 - number) ** 2 < (8 + number / 2) ** 2
    return inside & (number != EMPTY_MASK)


def write_endotect(root: Path, *, labelled: str = "labeled-images", segmented: str = "segmented-images") -> None:
    """Writes the miniature.

    Args:
        root: where.
        labelled: the folder of the labelled images.
        segmented: the folder of the polyps' masks.
    """
    rows: list[list[str]] = []
    for finding, (tract, category, count) in FOLDERS.items():
        folder = root / labelled / f"{tract}-gi-tract" / category / finding
        folder.mkdir(parents=True)
        for number in range(count):
            _picture(finding, number).save(folder / f"{name(finding, number)}.jpg")
            rows.append([name(finding, number), f"{tract.title()} GI", finding, category])
    _write_segmented(root / segmented)
    _write_splits(root / "official_splits", rows)
    with (root / labelled / "image-labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Video file", "Organ", "Finding", "Classification"], *rows])
    _picture("cecum", 50).save(_made(root / "unlabeled-images" / "images") / f"{name('unlabelled', 0)}.jpg")


def write_mask(path: Path, white: NDArray[np.bool_]) -> None:
    """A mask as the release has them: a JPEG of three channels, whose black and white are noisy."""
    Image.fromarray(white.astype(np.uint8) * 255).convert("RGB").save(path, quality=40)


def _write_segmented(root: Path) -> None:
    """The polyps and their masks, and one polyp that is no labelled image."""
    numbers = [number for number in range(FOLDERS["polyps"][2]) if number != WITHOUT_MASK]
    boxes = {}
    for number in (*numbers, 90):
        stem = name("polyps", number)
        _picture("polyps", number % 50).save(_made(root / "images") / f"{stem}.jpg")
        write_mask(_made(root / "masks") / f"{stem}.jpg", polyp(number % 50))
        boxes[stem] = {"height": size(number)[0], "width": size(number)[1], "bbox": []}
    (root / "bounding-boxes.json").write_text(json.dumps(boxes))


def _write_splits(folder: Path, rows: list[list[str]]) -> None:
    """The official splits, which have names of their own for some findings; every fold has every finding it can."""
    official = {finding: other for other, finding in OFFICIAL_NAMES.items()}
    for folds in (2, 5):
        lines = [
            f"{stem}.jpg;{official.get(finding, finding)};{index % folds}"
            for index, (stem, _, finding, _) in enumerate(rows)
        ]
        (_made(folder) / f"{folds}_fold_split.csv").write_text("\n".join(["file-name;class-name;split-index", *lines]))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _picture(finding: str, number: int) -> Image.Image:
    """Soft pink noise in a shade of the finding's, and the polyp where there is one."""
    height, width = size(number % 50)
    rng = np.random.default_rng([len(finding), number])
    noise = Image.fromarray(rng.integers(0, 60, size=(5, 5, 3), dtype=np.uint8))
    shade = np.random.default_rng(list(finding.encode())).integers(0, 110, size=3)
    picture = np.array(noise.resize((width, height), Image.Resampling.BICUBIC)) + np.array([80, 40, 30]) + shade
    if finding == "polyps":
        picture[polyp(number % 50)] += 50
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
