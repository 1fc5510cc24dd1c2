"""Reader of ADE20K in the scene parsing challenge's selection (ADEChallengeData2016): photographs, 150 classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.config import DatasetConfig
from ctm.data.datasets.listing import find_home, folder_files, problem, read_text
from ctm.data.datasets.photographs import mask_values, read_photograph, stored_mask
from ctm.data.datasets.reader import (
    Entry,
    Problem,
    RawDataset,
    RawFile,
    check_channels,
    class_table,
    present_labels,
)
from ctm.data.sample import Sample, safe_key
from ctm.errors import DataError, ParamsError
from ctm.runtime.storage import Tree

__all__ = ["CLASS_NAMES", "OTHER", "open_ade20k"]

OTHER = "other objects"
"""Mask value 0: whatever belongs to none of the 150 classes."""
# fmt: off
CLASS_NAMES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet",
    "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water",
    "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk",
    "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column", "signboard",
    "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path",
    "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge", "bookcase",
    "blind", "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove", "palm",
    "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus", "towel", "light",
    "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television", "airplane", "dirt track",
    "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van",
    "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool", "barrel",
    "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank", "trade name",
    "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen", "blanket", "sculpture", "hood", "sconce",
    "vase", "traffic light", "tray", "ashcan", "fan", "pier", "crt screen", "plate", "monitor", "bulletin board",
    "shower", "radiator", "glass", "clock", "flag",
)
# fmt: on
"""The classes of mask values 1 to 150, by the first of their names in objectInfo150.txt."""
FOLDERS = {"train": "training", "val": "validation"}
"""The folder of each split."""
INFO = "objectInfo150.txt"


def open_ade20k(config: DatasetConfig, tree: Tree) -> RawDataset:
    """ADE20K, anywhere below the root.

    Where the files lie::

        ADEChallengeData2016/images/{training,validation}/ADE_train_00000001.jpg
        ADEChallengeData2016/annotations/{training,validation}/ADE_train_00000001.png
        ADEChallengeData2016/objectInfo150.txt      read only to see that there are 150 classes

    Raises:
        DataError: the layout is another one, or the classes are not 150.
        ParamsError: the configuration does not say what mask value 0 is, or contradicts the format.
        StorageError: the tree cannot be read.
    """
    check_channels(config)
    classes = _classes(config)
    home = find_home(tree, "ADEChallengeData2016", f"images/{FOLDERS['train']}/", "the photographs of ADE20K")
    _check_info(tree, f"{home}{INFO}")
    problems: list[Problem] = []
    return RawDataset(
        classes=classes,
        splits={split: _entries(tree, home, folder, problems) for split, folder in FOLDERS.items()},
        decode=_Decode(classes, config.min_label_fraction, ignore_zero=config.zero_label == "ignore"),
        problems=problems,
    )


def _classes(config: DatasetConfig) -> ClassTable:
    if config.zero_label is None:
        raise ParamsError(
            f"dataset.zero_label must say what mask value 0 ({OTHER}) is: `--set dataset.zero_label=class` makes it a "
            "class of its own (151 classes, as the paper), `--set dataset.zero_label=ignore` leaves it out of labels "
            "and scores, and value k becomes class k-1 (150 classes, the benchmark's reduce_zero_label)"
        )
    names = (OTHER, *CLASS_NAMES) if config.zero_label == "class" else CLASS_NAMES
    if config.classes is not None and len(config.classes) != len(names):
        raise ParamsError(
            f"dataset.classes has {len(config.classes)} names, but with dataset.zero_label={config.zero_label} there "
            f"are {len(names)} classes: `--set dataset.classes=null` takes their own names"
        )
    return class_table(config.classes or names, config)


def _check_info(tree: Tree, path: str) -> None:
    """Checks the table of the classes, where there is one: another selection of classes has other mask values."""
    if path not in tree.files:
        return
    rows = [line for line in read_text(tree, path).splitlines() if line.strip()[:1].isdigit()]
    if len(rows) != len(CLASS_NAMES):
        raise DataError(
            f"{tree.place(path)} has {len(rows)} classes, expected {len(CLASS_NAMES)}; "
            "only the scene parsing challenge's selection (ADEChallengeData2016) is read"
        )


def _entries(tree: Tree, home: str, folder: str, problems: list[Problem]) -> list[Entry]:
    """The samples of a split, in the order of their names; ``problems`` gets files without partner or own name."""
    images = _folder(tree, f"{home}images/{folder}", suffixes=(".jpg", ".jpeg"), problems=problems)
    annotations = _folder(tree, f"{home}annotations/{folder}", suffixes=(".png",), problems=problems)
    problems += _without_partner(tree, images, annotations, f"{home}annotations/{folder}/", ".png")
    problems += _without_partner(tree, annotations, images, f"{home}images/{folder}/", ".jpg")
    return [
        Entry(safe_key(name), {"image": image, "mask": annotations[name]})
        for name, image in images.items()
        if name in annotations
    ]


def _folder(tree: Tree, folder: str, *, suffixes: tuple[str, ...], problems: list[Problem]) -> dict[str, str]:
    files = folder_files(tree, folder, suffixes=suffixes, problems=problems)
    if not files:
        raise DataError(
            f"{tree.place(folder)} holds no {suffixes[0]} file; ADEChallengeData2016 has images and annotations in "
            "training and validation (the full ADE20K, sorted by scenes, is another data set)"
        )
    return files


def _without_partner(
    tree: Tree, files: Mapping[str, str], partners: Mapping[str, str], folder: str, suffix: str
) -> list[Problem]:
    return [
        problem(tree, path, f"no partner {tree.place(f'{folder}{name}{suffix}')}; add it or remove this file")
        for name, path in files.items()
        if name not in partners
    ]


@dataclass(frozen=True)
class _Decode:
    """Makes a sample of a photograph and its annotation."""

    classes: ClassTable
    min_label_fraction: float
    ignore_zero: bool

    def __call__(self, entry: Entry, files: Mapping[str, RawFile]) -> Sample:
        """Decodes and validates one sample."""
        photograph = read_photograph(files["image"])
        mask = _read_annotation(files["mask"], size=photograph.size)
        if self.ignore_zero:
            mask = np.where(mask == 0, IGNORE, mask - 1).astype(np.uint8)
        labels = present_labels(mask, self.classes, min_fraction=self.min_label_fraction)
        return photograph.sample(entry.key, labels=labels, mask=mask)


def _read_annotation(file: RawFile, *, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The values 0 to 150 of an annotation; 255 is none of them, but a sign of masks that were renumbered already.

    Raises:
        DataError: the file is damaged, holds colours, has another size than its image, or a value above 150.
    """
    mask = stored_mask(file, size=size)
    wrong = [value for value in mask_values(mask) if value > len(CLASS_NAMES)]
    if wrong:
        raise DataError(
            f"{file.path}: mask values {wrong} are no class; valid are 0 ({OTHER}) to {len(CLASS_NAMES)}. "
            "Give the annotations as they are distributed, not renumbered"
        )
    return mask
