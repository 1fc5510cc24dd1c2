"""Reader of PASCAL VOC 2012, with the further images of SBD (Semantic Boundaries Dataset) as the field trains on them.

The field's protocol: train on ``train_aug`` (10,582 images), score pseudo-masks on VOC's own ``train`` (1,464), report
``val`` (1,449). So truth is the devkit's alone: an image that only SBD has masks for gets labels, and no truth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from xml.etree import ElementTree

from ctm.data.classes import ClassTable
from ctm.data.config import DatasetConfig
from ctm.data.datasets.listing import entries_of, find_home, folder_files, problem, read_list
from ctm.data.datasets.photographs import read_mask, read_photograph
from ctm.data.datasets.reader import (
    Entry,
    Problem,
    RawDataset,
    RawFile,
    check_channels,
    known_classes,
    present_labels,
)
from ctm.data.datasets.sbd import read_sbd_mask
from ctm.data.sample import Sample, safe_key
from ctm.errors import DataError
from ctm.runtime.storage import Tree

__all__ = ["CLASS_NAMES", "open_voc2012"]

logger = logging.getLogger(__name__)

CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
BACKGROUND = 0
OBJECTS = {name: value for value, name in enumerate(CLASS_NAMES) if value != BACKGROUND}
"""Mask value of each name in the XML files, whatever the configuration calls the classes."""
TRUTH, MASK, SBD_MASK, XML = "mask", "label_mask", "sbd_mask", "annotation"
LABEL_ROLES = (XML, SBD_MASK, MASK, TRUTH)
"""Roles of the files that labels are taken from; an entry has one of the first three, or they are in the truth."""
MASK_READERS = {TRUTH: read_mask, MASK: read_mask, SBD_MASK: read_sbd_mask}
LISTS = "ImageSets/Segmentation/"
TRAIN_AUG_LISTS = ("train_aug.txt", "trainaug.txt")
"""Its names in the repositories that ship it; the devkit has none."""
TRAIN_AUG_IMAGES = 10_582


def open_voc2012(config: DatasetConfig, tree: Tree) -> RawDataset:
    """PASCAL VOC 2012, anywhere below the root.

    Where the files lie::

        VOC2012/ImageSets/Segmentation/{train,val}.txt      and train_aug.txt or trainaug.txt, where there is one
        VOC2012/JPEGImages/ID.jpg
        VOC2012/SegmentationClass/ID.png                    truth; 255 = void
        VOC2012/SegmentationClassAug/ID.png                 masks of train_aug, only for labels
        VOC2012/Annotations/ID.xml                          objects, only for dataset.labels_from=annotations
        VOCaug/dataset/{cls/ID.mat,train.txt,val.txt}       raw SBD under any name, where there is no train_aug.txt

    Raises:
        DataError: the layout is another one, there is no list of train_aug and nothing to make it of, or train and val
            overlap.
        ParamsError: the configuration contradicts the format.
        StorageError: the tree cannot be read.
    """
    check_channels(config)
    classes = known_classes(CLASS_NAMES, config, background=BACKGROUND)
    home, sbd = find_home(tree, "VOC2012", LISTS, "the lists of PASCAL VOC"), _sbd_folder(tree)
    own = {split: _ids(tree, f"{home}{LISTS}{split}.txt") for split in ("train", "val")}
    train = own["train"] if config.train_list == "train" else _train_aug(tree, home, own=own, sbd=sbd)
    both = sorted(set(train).intersection(own["val"]))
    if both:
        raise DataError(
            f"{tree.place(home + LISTS)}: {len(both)} images are in the train list and in val.txt, such as "
            f"{both[0]!r}; what is validated on must not be trained on: take them out of the train list"
        )
    problems: list[Problem] = []
    files = _Files.find(tree, home, sbd=sbd, labels_from=config.labels_from or "masks", problems=problems)
    splits = {
        split: entries_of((files.entry(name, truth=name in own[split]) for name in names), problems=problems)
        for split, names in {"train": train, "val": own["val"]}.items()
    }
    return RawDataset(
        classes=classes,
        splits=splits,
        decode=_Decode(classes, config.min_label_fraction),
        problems=problems,
        left_out={"images in neither the train nor the val list": len(set(files.images).difference(train, own["val"]))},
    )


def _sbd_folder(tree: Tree) -> str | None:
    """The folder of raw SBD, which has its masks in ``cls``; None if there is none."""
    masks = (PurePosixPath(path) for path in tree.files if path.endswith(".mat"))
    places = {path.parents[1] for path in masks if path.parent.name == "cls"}
    place = min(places, key=lambda place: (len(place.parts), place), default=None)
    return None if place is None else "".join(f"{part}/" for part in place.parts)


def _ids(tree: Tree, path: str) -> dict[str, None]:
    """The images in a list, in its order. Lines are ``ID`` or, in some copies, ``/JPEGImages/ID.jpg /…/ID.png``."""
    ids: dict[str, None] = {}
    for word in read_list(tree, path):
        name = PurePosixPath(word).stem
        if name in ids:
            raise DataError(f"{tree.place(path)}: image {name!r} is listed twice")
        ids[name] = None
    return ids


def _train_aug(tree: Tree, home: str, *, own: Mapping[str, Iterable[str]], sbd: str | None) -> Iterable[str]:
    """The images of train_aug: as a list says, or all of VOC's train and of SBD that are not in VOC's val, sorted."""
    for name in TRAIN_AUG_LISTS:
        if f"{home}{LISTS}{name}" in tree.files:
            return _ids(tree, f"{home}{LISTS}{name}")
    if sbd is None:
        raise DataError(
            f"{tree.place(home + LISTS)} has no list of train_aug ({' or '.join(TRAIN_AUG_LISTS)}), and below "
            f"{tree.uri} there is no raw SBD to make it of (a folder with cls/*.mat, train.txt and val.txt, such as "
            "VOCaug/dataset or benchmark_RELEASE/dataset). Add either, or train on VOC's own 1,464 images: "
            "`--set dataset.train_list=train`"
        )
    ids = {*own["train"], *_ids(tree, f"{sbd}train.txt"), *_ids(tree, f"{sbd}val.txt")} - {*own["val"]}
    if len(ids) != TRAIN_AUG_IMAGES:
        logger.warning(
            "train_aug made of %s and %s has %s images; the usual one has %s",
            tree.place(f"{home}{LISTS}train.txt"),
            tree.place(sbd),
            f"{len(ids):,}",
            f"{TRAIN_AUG_IMAGES:,}",
        )
    return sorted(ids)


@dataclass(frozen=True)
class _Files:
    """What the folders hold, by image.

    Attributes:
        tree: where they lie.
        home: the folder VOC2012.
        images: the photographs.
        truth: the devkit's own masks.
        labels: what labels are made of, by the role of the file in an entry; the first that has the image counts.
        sources: ``labels`` in words.
    """

    tree: Tree
    home: str
    images: Mapping[str, str]
    truth: Mapping[str, str]
    labels: Sequence[tuple[str, Mapping[str, str]]]
    sources: str

    @classmethod
    def find(
        cls,
        tree: Tree,
        home: str,
        *,
        sbd: str | None,
        labels_from: Literal["masks", "annotations"],
        problems: list[Problem],
    ) -> _Files:
        """Looks into the folders; what is wrong there is added to ``problems``."""

        def files(folder: str, *suffixes: str) -> dict[str, str]:
            return folder_files(tree, folder, suffixes=suffixes, problems=problems)

        truth = files(f"{home}SegmentationClass", ".png")
        if not truth:
            logger.warning("%s has no masks: there is no truth to score by", tree.place(f"{home}SegmentationClass"))
        if labels_from == "annotations":
            labels = [(XML, files(f"{home}Annotations", ".xml"))]
            sources = "XML file in Annotations"
        else:
            labels = [
                (MASK, files(f"{home}SegmentationClassAug", ".png")),
                (SBD_MASK, {} if sbd is None else files(f"{sbd}cls", ".mat")),
                (MASK, truth),
            ]
            sources = "mask in SegmentationClassAug, raw SBD or SegmentationClass"
        images = files(f"{home}JPEGImages", ".jpg", ".jpeg")
        return cls(tree, home, images, truth, labels, sources)

    def entry(self, name: str, *, truth: bool) -> Entry | Problem:
        """The files of an image, or what is wrong with them.

        Args:
            name: the image.
            truth: it is in one of the devkit's lists, for whose images the devkit has masks.
        """
        if name not in self.images:
            path = f"{self.home}JPEGImages/{name}.jpg"
            return problem(self.tree, path, "missing, but listed; add the file or remove the line from the list")
        files = {"image": self.images[name]}
        label = next(((role, paths[name]) for role, paths in self.labels if name in paths), None)
        if label is None:
            words = f"no {self.sources} to take labels from; add one or remove the image from the list"
            return problem(self.tree, files["image"], words)
        if truth and self.truth:
            if name not in self.truth:
                path = f"{self.home}SegmentationClass/{name}.png"
                return problem(self.tree, path, "missing, but the devkit has masks for all images of its lists; add it")
            files[TRUTH] = self.truth[name]
        if label[1] not in files.values():
            files[label[0]] = label[1]
        return Entry(safe_key(name), files)


@dataclass(frozen=True)
class _Decode:
    """Makes a sample of a photograph, its truth and the file with its labels."""

    classes: ClassTable
    min_label_fraction: float

    def __call__(self, entry: Entry, files: Mapping[str, RawFile]) -> Sample:
        """Decodes and validates one sample."""
        photograph = read_photograph(files["image"])
        masks = {
            role: MASK_READERS[role](file, size=photograph.size, names=self.classes.names)
            for role, file in files.items()
            if role in MASK_READERS
        }
        source = next(role for role in LABEL_ROLES if role in files)
        if source == XML:
            labels = _objects(files[source])
        else:
            labels = present_labels(masks[source], self.classes, min_fraction=self.min_label_fraction)
        return photograph.sample(entry.key, labels=labels, mask=masks.get(TRUTH))


def _objects(file: RawFile) -> tuple[int, ...]:
    """The classes of the objects in an XML file, difficult ones included; an object's parts have names of their own.

    Raises:
        DataError: the file is damaged or none of VOC's, or an object is of no class.
    """
    try:
        annotation = ElementTree.fromstring(file.data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{file.path} is no readable XML ({error}); replace the file") from error
    if annotation.tag != "annotation":
        raise DataError(f"{file.path} is no annotation of VOC: it holds <{annotation.tag}>, not <annotation>")
    names = {(found.findtext("name") or "").strip() for found in annotation.iterfind("object")}
    unknown = sorted(names - set(OBJECTS))
    if unknown:
        raise DataError(
            f"{file.path}: objects of unknown class {', '.join(map(repr, unknown))}; valid names: {', '.join(OBJECTS)}"
        )
    return tuple(sorted(OBJECTS[name] for name in names))
