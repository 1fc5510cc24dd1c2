"""Reader of MS-COCO 2014: 80 classes of objects and a background, from the instances JSON or from masks made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ctm.data.config import DatasetConfig
from ctm.data.datasets.coco_classes import CLASS_NAMES
from ctm.data.datasets.coco_masks import DecodeMasked, recognised_encoding
from ctm.data.datasets.coco_truth import AnnotatedImage, decode_annotated, load_pycocotools
from ctm.data.datasets.listing import entries_of, find_prefix, folder_files, problem
from ctm.data.datasets.reader import Decode, Entry, Problem, RawDataset, check_channels, known_classes
from ctm.data.libraries import load_library
from ctm.data.sample import safe_key
from ctm.errors import DataError, ParamsError
from ctm.runtime.storage import Tree

__all__ = ["open_coco2014"]

SPLITS = ("train", "val")
JPEG = (".jpg", ".jpeg")
PNG = (".png",)


def open_coco2014(config: DatasetConfig, tree: Tree) -> RawDataset:
    """COCO 2014 as it is unpacked, or with masks in ``SegmentationClass``.

    Where the files lie, here or in a folder below::

        train2014/COCO_train2014_000000000009.jpg       or JPEGImages/train2014/, or JPEGImages/train/
        val2014/COCO_val2014_000000000042.jpg           likewise
        annotations/instances_{train,val}2014.json      for labels_from: annotations
        SegmentationClass/train2014/COCO_train2014_000000000009.png     for labels_from: masks; or train/

    Images without an annotation, or without a mask, are left out, as usual (82,081 train and 40,137 val remain).

    Raises:
        DataError: a folder or the JSON is missing, the JSON is damaged, contradicts itself or is not COCO's, or the
            encoding of the masks cannot be told.
        ParamsError: the configuration contradicts the format.
    """
    check_channels(config)
    classes = known_classes(CLASS_NAMES, config, background=0)
    problems: list[Problem] = []
    left_out: dict[str, int] = {}
    if config.labels_from == "masks":
        masks = {split: _mask_files(tree, split, problems) for split in SPLITS}
        paths = [path for files in masks.values() for path in files.values()]
        encoding = config.mask_encoding or recognised_encoding(tree, paths)
        decode: Decode = DecodeMasked(classes, encoding, config.min_label_fraction)
        splits = {split: _masked(tree, split, masks[split], problems, left_out) for split in SPLITS}
    else:
        if config.mask_encoding is not None:
            raise ParamsError("dataset.mask_encoding is for dataset.labels_from: masks; set it to null")
        load_pycocotools()
        load_library("msgspec", "the instances JSON needs")
        decode = decode_annotated
        splits = {split: _annotated(tree, split, problems, left_out) for split in SPLITS}
    return RawDataset(classes, splits, decode, problems, left_out)


def _annotated(tree: Tree, split: str, problems: list[Problem], left_out: dict[str, int]) -> list[Entry]:
    """The images that have annotations; what is wrong with others, and how many have none, is added to the last two."""
    from ctm.data.datasets.coco_instances import read_instances

    folder, path = _image_folder(tree, split), _instances_path(tree, split)
    files = folder_files(tree, folder, suffixes=JPEG, problems=problems)
    listed = read_instances(tree, path)
    annotated = [image for image in listed if image.labels]

    def found(image: AnnotatedImage) -> Entry | Problem:
        if image.stem in files:
            return Entry(safe_key(image.stem), {"image": files[image.stem]}, image.labels, image)
        message = f"missing, but {tree.place(path)} lists it; unpack it or remove image {image.number} from the list"
        return problem(tree, f"{folder}/{image.stem}.jpg", message)

    left_out[f"{split} images without annotation"] = len(listed) - len(annotated)
    unlisted = files.keys() - {image.stem for image in listed}
    left_out[f"{split} JPEGs that are not in the instances JSON"] = len(unlisted)
    return entries_of(map(found, annotated), problems=problems)


def _masked(
    tree: Tree, split: str, masks: Mapping[str, str], problems: list[Problem], left_out: dict[str, int]
) -> list[Entry]:
    """The images that have a mask; what is wrong with others, and how many have none, is added to the last two."""
    folder = _image_folder(tree, split)
    images = folder_files(tree, folder, suffixes=JPEG, problems=problems)
    both = sorted(images.keys() & masks.keys())
    message = f"no image of this name in {tree.place(folder)}; add it or remove the mask"
    problems += [problem(tree, masks[stem], message) for stem in sorted(masks.keys() - images.keys())]
    left_out[f"{split} images without a mask"] = len(images) - len(both)
    return [Entry(safe_key(stem), {"image": images[stem], "mask": masks[stem]}) for stem in both]


def _image_folder(tree: Tree, split: str) -> str:
    folder = _folder(tree, (f"{split}2014", f"JPEGImages/{split}"), suffixes=JPEG)
    if folder is None:
        raise DataError(
            f"{tree.uri} holds no {split} images of COCO 2014: expected JPEGs in {split}2014/, "
            f"JPEGImages/{split}2014/ or JPEGImages/{split}/, there or in a folder below"
        )
    return folder


def _mask_files(tree: Tree, split: str, problems: list[Problem]) -> dict[str, str]:
    folder = _folder(tree, (f"SegmentationClass/{split}2014", f"SegmentationClass/{split}"), suffixes=PNG)
    if folder is None:
        raise DataError(
            f"{tree.uri} holds no {split} masks: expected PNGs in SegmentationClass/{split}2014/ or "
            f"SegmentationClass/{split}/. Set dataset.labels_from to annotations to make them from the instances JSON"
        )
    return folder_files(tree, folder, suffixes=PNG, problems=problems)


def _folder(tree: Tree, spellings: Sequence[str], *, suffixes: tuple[str, ...]) -> str | None:
    """The shallowest folder of one of the given names that holds files with one of ``suffixes``."""
    folders = {path.rpartition("/")[0] for path in tree.files if path.lower().endswith(suffixes)}
    for spelling in spellings:
        found = [folder for folder in folders if f"/{folder}".endswith(f"/{spelling}")]
        if found:
            return min(found, key=lambda folder: (folder.count("/"), folder))
    return None


def _instances_path(tree: Tree, split: str) -> str:
    name = f"annotations/instances_{split}2014.json"
    path = f"{find_prefix(tree, name) or ''}{name}"
    if path not in tree.files:
        raise DataError(
            f"{tree.uri} holds no {name}: unpack annotations_trainval2014.zip there, or set dataset.labels_from to "
            "masks to read SegmentationClass"
        )
    return path
