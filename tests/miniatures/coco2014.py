"""A miniature of COCO 2014 in its true layout: 13 images with every trap that the real set has."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctm.data.datasets.coco_classes import CATEGORY_IDS, CLASS_NAMES

PERSON, CAR, STOP_SIGN, DOG, REMOTE, REFRIGERATOR, TOOTHBRUSH = 1, 3, 13, 18, 75, 82, 90
"""Category ids: those from 81 tell category ids, and 13 and 75 (12 and 66 if contiguous) tell contiguous values."""


@dataclass(frozen=True)
class Thing:
    """An annotated object that covers the pixels of a box: left, top, right and bottom, the last two exclusive."""

    category: int
    box: tuple[int, int, int, int]
    kind: Literal["polygon", "polygons", "counts", "text"] = "polygon"
    """One polygon, one for each half, a crowd's run lengths, or run lengths in COCO's compressed text."""

    @property
    def area(self) -> int:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


@dataclass(frozen=True)
class Scene:
    """An image."""

    height: int
    width: int
    things: tuple[Thing, ...] = ()
    grey: bool = field(default=False, kw_only=True)

    def mask(self) -> NDArray[np.uint8]:
        """Category ids, (H, W), painted the other way round: from the largest to the smallest, the last on top."""
        mask = np.zeros((self.height, self.width), dtype=np.uint8)
        for thing in sorted(self.things, key=lambda thing: -thing.area):
            left, top, right, bottom = thing.box
            mask[top:bottom, left:right] = thing.category
        return mask


SCENES: dict[str, dict[int, Scene]] = {
    "train": {
        9: Scene(33, 40, (Thing(PERSON, (4, 2, 30, 31)), Thing(DOG, (10, 12, 20, 24)))),
        25: Scene(29, 40, (Thing(DOG, (3, 5, 25, 20)),), grey=True),
        30: Scene(40, 27, (Thing(PERSON, (0, 0, 27, 18), "counts"), Thing(CAR, (5, 9, 22, 30)))),
        34: Scene(32, 32, (Thing(TOOTHBRUSH, (6, 6, 12, 28)), Thing(CAR, (14, 8, 30, 30), "polygons"))),
        36: Scene(30, 30),
        49: Scene(37, 41, (Thing(STOP_SIGN, (8, 8, 20, 20)), Thing(PERSON, (1, 1, 20, 20)))),
        61: Scene(40, 40, (Thing(REMOTE, (0, 25, 40, 40), "text"), Thing(STOP_SIGN, (12, 3, 28, 19)))),
        64: Scene(31, 43, (Thing(REFRIGERATOR, (2, 2, 18, 30)), Thing(CAR, (20, 10, 42, 28)))),
    },
    "val": {
        42: Scene(35, 35, (Thing(PERSON, (5, 2, 28, 33)), Thing(TOOTHBRUSH, (20, 15, 34, 19)))),
        73: Scene(28, 45, (Thing(CAR, (4, 8, 40, 25)),), grey=True),
        74: Scene(36, 36, (Thing(DOG, (3, 3, 33, 20)), Thing(STOP_SIGN, (10, 14, 30, 34)))),
        133: Scene(30, 34),
        136: Scene(30, 41, (Thing(PERSON, (2, 2, 20, 28)), Thing(PERSON, (15, 4, 40, 28), "counts"))),
    },
}
"""By split and image id. Things that overlap are of different area."""


def stem(split: str, number: int) -> str:
    """The name of an image without suffix."""
    return f"COCO_{split}2014_{number:012}"


def write_coco2014(
    root: Path,
    *,
    images: str = "{split}2014",
    annotations: bool = True,
    masks: Literal["contiguous", "category_id"] | None = None,
) -> None:
    """Writes the miniature.

    Args:
        root: where.
        images: the folder of a split's images.
        annotations: with the instances JSON.
        masks: with masks of this encoding; images without annotation have none.
    """
    for split, scenes in SCENES.items():
        for number, scene in scenes.items():
            path = root / images.format(split=split) / f"{stem(split, number)}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            _picture(scene, seed=number).save(path)
            if masks and scene.things:
                write_mask(root, split, number, scene.mask(), encoding=masks)
        if annotations:
            write_instances(root, split, instances(split))


def write_mask(root: Path, split: str, number: int, ids: NDArray[np.uint8], *, encoding: str) -> Path:
    """Writes category ids as a mask."""
    path = root / "SegmentationClass" / f"{split}2014" / f"{stem(split, number)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contiguous(ids) if encoding == "contiguous" else ids).save(path)
    return path


def contiguous(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask values of category ids."""
    values = np.zeros_like(ids)
    for value, number in enumerate(CATEGORY_IDS, start=1):
        values[ids == number] = value
    return values


def instances(split: str) -> dict[str, Any]:
    """The instances JSON of a split, as COCO distributes it."""
    scenes = SCENES[split]
    return {
        "info": {"description": "This is a miniature of the 2014 MS COCO dataset.", "year": 2014},
        "images": [_image(split, number, scene) for number, scene in scenes.items()],
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}],
        "annotations": [
            _annotation(thing, number * 100 + index, number, scene)
            for number, scene in scenes.items()
            for index, thing in enumerate(scene.things)
        ],
        "categories": [
            {"supercategory": "thing", "id": number, "name": name}
            for number, name in zip(CATEGORY_IDS, CLASS_NAMES[1:], strict=True)
        ],
    }


def write_instances(root: Path, split: str, content: Any) -> Path:
    """Writes an instances JSON."""
    path = root / "annotations" / f"instances_{split}2014.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def _image(split: str, number: int, scene: Scene) -> dict[str, Any]:
    return {
        "license": 4,
        "file_name": f"{stem(split, number)}.jpg",
        "height": scene.height,
        "width": scene.width,
        "date_captured": "2013-11-14 16:28:13",
        "id": number,
    }


def _annotation(thing: Thing, number: int, image: int, scene: Scene) -> dict[str, Any]:
    left, top, right, bottom = thing.box
    return {
        "segmentation": _segmentation(thing, scene),
        "area": float(thing.area),
        "iscrowd": int(thing.kind in {"counts", "text"}),
        "image_id": image,
        "bbox": [left, top, right - left, bottom - top],
        "category_id": thing.category,
        "id": number,
    }


def _segmentation(thing: Thing, scene: Scene) -> Any:
    left, top, right, bottom = thing.box
    size = [scene.height, scene.width]
    if thing.kind == "polygon":
        return [_corners(left, top, right, bottom)]
    if thing.kind == "polygons":
        middle = (left + right) // 2
        return [_corners(left, top, middle, bottom), _corners(middle, top, right, bottom)]
    covered = np.zeros(size, dtype=np.uint8)
    covered[top:bottom, left:right] = 1
    if thing.kind == "counts":
        return {"counts": _runs(covered), "size": size}
    from pycocotools.mask import encode

    return {"counts": encode(np.asfortranarray(covered))["counts"].decode(), "size": size}


def _corners(left: int, top: int, right: int, bottom: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


def _runs(covered: NDArray[np.uint8]) -> list[int]:
    """Lengths of the runs of equal pixels, column by column, beginning with those of zeros."""
    pixels = covered.ravel(order="F")
    edges = [0, *(np.flatnonzero(np.diff(pixels)) + 1).tolist(), pixels.size]
    runs = np.diff(edges).tolist()
    return [0, *runs] if pixels[0] else runs


def _picture(scene: Scene, *, seed: int) -> Image.Image:
    """Soft noise, with every class in a colour of its own."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(90, 160, size=(5, 5, 3), dtype=np.uint8))
    picture = np.array(noise.resize((scene.width, scene.height), Image.Resampling.BICUBIC))
    ids = scene.mask()
    colours = np.random.default_rng(0).integers(0, 256, size=(256, 3))
    picture[ids > 0] = picture[ids > 0] // 3 + colours[ids[ids > 0]] * 2 // 3
    image = Image.fromarray(picture)
    return image.convert("L") if scene.grey else image
