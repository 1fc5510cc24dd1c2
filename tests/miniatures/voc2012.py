"""A miniature of PASCAL VOC 2012 with SBD, in the true layout and with the true files' oddities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ctm.data.classes import ClassTable
from ctm.data.datasets.voc2012 import CLASS_NAMES

COLOURS = {"background": (90, 110, 90), "cow": (200, 60, 40), "dog": (40, 70, 210), "person": (220, 200, 60)}
SCENES: Mapping[str, tuple[tuple[int, int], tuple[str, ...]]] = {
    "2007_000032": ((33, 47), ("cow", "person")),
    "2007_000039": ((40, 31), ("dog",)),
    "2007_000063": ((37, 37), ("person",)),
    "2008_000002": ((25, 40), ("cow",)),
    "2008_000007": ((48, 36), ("dog", "person")),
    "2008_000008": ((31, 45), ("cow", "dog")),
    "2010_000002": ((39, 29), ("person",)),
    "2007_000033": ((35, 46), ("cow",)),
    "2007_000042": ((30, 30), ("dog", "person")),
    "2007_000061": ((41, 33), ("cow", "person")),
    "2012_000099": ((28, 28), ("dog",)),
}
"""Height, width and objects of each image."""
TRAIN = ("2007_000032", "2007_000039", "2007_000063")
VAL = ("2007_000033", "2007_000042", "2007_000061")
AUG_ONLY = ("2008_000002", "2008_000007", "2008_000008", "2010_000002")
TRAIN_AUG = (*TRAIN, *AUG_ONLY)
UNLISTED = "2012_000099"
SBD_TRAIN = ("2008_000007", "2007_000033", "2008_000002", "2007_000039")
"""As in the true set, an image of VOC's val is among them."""
SBD_VAL = ("2010_000002", "2008_000008")
DIFFICULT = {"2007_000032": "bottle"}
"""An object of the XML that is marked difficult, and is in no mask."""
PALETTE = ClassTable(CLASS_NAMES, 0).palette()


def write_voc2012(root: Path, *, aug: Literal["masks", "sbd"] | None = "masks") -> None:
    """Writes ``VOCdevkit/VOC2012`` below ``root``, with 3 images of train, 3 of val and one of no list.

    Args:
        root: folder above VOCdevkit.
        aug: the 4 images of train_aug alone come as ``train_aug.txt`` and ``SegmentationClassAug``, as raw SBD in
            ``VOCdevkit/VOCaug``, or have no masks and no list.
    """
    home = root / "VOCdevkit" / "VOC2012"
    for name, (size, objects) in SCENES.items():
        pixels, mask = scene(size, objects, seed=int(name[-4:]))
        write_picture(home / "JPEGImages" / f"{name}.jpg", pixels)
        write_xml(home / "Annotations" / f"{name}.xml", size, objects, difficult=DIFFICULT.get(name))
        if name in (*TRAIN, *VAL):
            write_mask(home / "SegmentationClass" / f"{name}.png", with_void(mask), palette=True)
        if aug == "masks" and name in TRAIN_AUG:
            write_mask(home / "SegmentationClassAug" / f"{name}.png", mask)
        if aug == "sbd" and name in (*SBD_TRAIN, *SBD_VAL):
            write_sbd_mask(root / "VOCdevkit" / "VOCaug" / "dataset" / "cls" / f"{name}.mat", mask)
    lists = home / "ImageSets" / "Segmentation"
    write_list(lists / "train.txt", TRAIN)
    write_list(lists / "val.txt", VAL, final_newline=False)
    write_list(lists / "trainval.txt", sorted((*TRAIN, *VAL)))
    if aug == "masks":
        write_list(lists / "train_aug.txt", TRAIN_AUG)
    if aug == "sbd":
        write_list(root / "VOCdevkit" / "VOCaug" / "dataset" / "train.txt", SBD_TRAIN)
        write_list(root / "VOCdevkit" / "VOCaug" / "dataset" / "val.txt", SBD_VAL)


def scene(size: tuple[int, int], objects: Iterable[str], *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) with one coloured box an object, side by side, and its mask (H, W)."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, dtype=np.uint8)
    pixels = np.empty((*size, 3))
    pixels[:] = COLOURS["background"]
    names = list(objects)
    for number, name in enumerate(names):
        width = size[1] // len(names)
        box = (slice(size[0] // 5, -(size[0] // 6)), slice(number * width + 3, (number + 1) * width - 2))
        mask[box] = CLASS_NAMES.index(name)
        pixels[box] = COLOURS[name]
    return np.clip(pixels + rng.normal(scale=12, size=pixels.shape), 0, 255).astype(np.uint8), mask


def with_void(mask: np.ndarray) -> np.ndarray:
    """The mask with a border of 255 around each object, as the devkit draws it."""
    padded = np.pad(mask, 1, mode="edge")
    edge = np.zeros(mask.shape, dtype=bool)
    for shifted in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= shifted != mask
    return np.where(edge, 255, mask).astype(np.uint8)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """A JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def write_mask(path: Path, mask: np.ndarray, *, palette: bool = False) -> None:
    """A PNG whose pixels are the values: greyscale, or indices into VOC's colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(PALETTE.tobytes())
    image.save(path)


def write_sbd_mask(path: Path, mask: np.ndarray, *, compressed: bool = True) -> None:
    """A file of SBD's ``cls`` folder: a struct of a cell of sparse matrices, the mask and a list of classes."""
    import scipy.io
    import scipy.sparse

    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), dtype=object)
    for k in range(20):
        boundaries[k, 0] = scipy.sparse.csc_matrix((mask == k + 1).astype(np.float64))
    present = np.unique(mask[mask > 0])[:, None].astype(np.uint8)
    ground_truth = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": present}
    scipy.io.savemat(path, {"GTcls": ground_truth}, do_compression=compressed)


def write_list(path: Path, lines: Iterable[str], *, final_newline: bool = True) -> None:
    """One image a line; some lists in the wild do not end their last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + ("\n" if final_newline else ""))


def write_xml(path: Path, size: tuple[int, int], objects: Iterable[str], *, difficult: str | None = None) -> None:
    """An annotation with a box an object; a person has a part, whose name is no class."""
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    described = [(name, 0) for name in objects] + ([(difficult, 1)] if difficult else [])
    boxes = "".join(
        f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>{hard}</difficult>\n\t\t<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>\n"
        f"{part if name == 'person' else ''}\t</object>\n"
        for name, hard in described
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{path.stem}.jpg</filename>\n"
        f"\t<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>\n{boxes}</annotation>\n"
    )
