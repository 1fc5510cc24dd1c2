"""Reader of the plain folder layout: images, a table of their labels, and masks where there are any."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from ctm.data.classes import ClassTable
from ctm.data.config import DatasetConfig
from ctm.data.datasets.folder_images import GEOTIFF, SUFFIXES, FolderDecode, find_kind
from ctm.data.datasets.listing import folder_files, read_table, read_text
from ctm.data.datasets.reader import Entry, Problem, RawDataset, class_table
from ctm.data.datasets.split_by_hash import split_by_hash
from ctm.data.sample import safe_key
from ctm.errors import DataError
from ctm.runtime.storage import Tree

__all__ = ["open_folder"]

TRAIN_SHARE = 0.8
LABELS, CLASSES, TUNE = "labels.csv", "classes.txt", "splits/tune.txt"


def open_folder(config: DatasetConfig, tree: Tree) -> RawDataset:
    """A folder of images: photographs of 8 bits, GeoTIFFs, or NumPy arrays.

    Where the files lie::

        images/*.jpg        or .jpeg, .png, .bmp, .webp; .tif, .tiff, .npy (any number of bands, one for all images)
        labels.csv          columns ``image`` (file name, with or without suffix) and ``classes`` (separated by ;)
        classes.txt         one class name a line; the line number, from 0, is the mask value
        masks/*.png, *.tif  optional truth for evaluation: class indices (palette or greyscale), 255 = ignore
        splits/train.txt    optional, with splits/val.txt: one image a line
        splits/tune.txt     optional: those of train by whose masks settings were chosen; they are scored apart

    Without ``splits`` every image goes to train (80 %) or val by a hash of its name. A label that names the
    background class is dropped, so that a row with nothing else says that an image holds none of the classes.

    Arrays are (channels, height, width), or (height, width) for one channel. A GeoTIFF of 8 bits with 1, 3 or 4 bands
    is a photograph: it gets 3 channels, unless ``channels`` asks for its bands as they are.

    Raises:
        DataError: a file is missing, a list contradicts itself or the other, or no image can be read.
        ParamsError: the configuration contradicts the data.
    """
    classes = _classes(config, tree)
    images = _Images(tree)
    labels = _read_labels(images, classes)
    lists = _read_splits(images)
    masks = _masks_by_stem(images)
    splits = {name: _entries(images, keys, labels=labels, masks=masks) for name, keys in lists.items()}
    kind = find_kind(config, tree, [entry.files["image"] for entries in splits.values() for entry in entries])
    listed = {key for keys in lists.values() for key in keys}
    tune = _read_tune(images, lists["train"])
    return RawDataset(
        classes=classes,
        channels=kind.channels,
        scale=config.scale or (1 / 255 if kind.eight_bit else 1.0),
        splits=splits,
        decode=FolderDecode(classes.names, kind),
        problems=images.problems,
        left_out={
            "in no list of splits/": len(images.paths.keys() - listed - images.faulty),
            "masks of no image": len(masks.keys() - {PurePosixPath(path).stem for path in images.paths.values()}),
            "in folders below images/": sum(path.count("/") > 1 for path in tree.files if _is_image(path)),
        },
        tune=tune,
        values="bytes" if kind.eight_bit else "numbers",
    )


class _Images:
    """The images of a folder by key, and what turns out to be wrong with single ones as the lists are read.

    Attributes:
        tree: where they lie.
        paths: the images' paths by key, in ascending order.
        faulty: keys of images with a problem.
        problems: these problems, and those of images that are not there.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.faulty: set[str] = set()
        self.problems: list[Problem] = []
        self._aliases: dict[str, str] = {}
        self._absent: set[str] = set()
        by_key: dict[str, list[str]] = defaultdict(list)
        for path in _image_paths(tree):
            name = PurePosixPath(path)
            key = safe_key(name.stem)
            by_key[key].append(path)
            # The full name wins over another file's stem: a list may spell an image either way.
            self._aliases.setdefault(name.stem, key)
            self._aliases[name.name] = key
        for key, paths in by_key.items():
            if len(paths) > 1:
                names = " and ".join(repr(PurePosixPath(path).name) for path in paths)
                message = f"{tree.place('images')}: {names} get one key ({key!r}); rename one"
                self.refuse(key, Problem(paths[1], message))
        self.paths = {key: paths[0] for key, paths in by_key.items()}

    def key(self, image: str, *, file: str, line: int) -> str | None:
        """The key of an image as a list spells it, or None after noting that the image is not there."""
        if image in self._aliases:
            return self._aliases[image]
        name = PurePosixPath(image)
        stem = name.stem if name.suffix.lower() in SUFFIXES else image
        if stem not in self._absent:  # once, however many lists name it
            self._absent.add(stem)
            message = (
                f"{self.tree.place(file)} line {line}: no image {image!r} in {self.tree.place('images')} "
                f"(suffixes read: {', '.join(SUFFIXES)}); add the file or remove the line"
            )
            self.problems.append(Problem(f"images/{image}", message))
        return None

    def refuse(self, key: str, found: Problem) -> None:
        """Notes what is wrong with an image, which is then not used."""
        self.faulty.add(key)
        self.problems.append(found)


def _image_paths(tree: Tree) -> list[str]:
    inside = [path for path in tree.files if path.startswith("images/")]
    if not inside:
        raise DataError(f"{tree.place('images')} is missing or empty; the layout of format 'folder' needs it")
    paths = [path for path in inside if path.count("/") == 1 and _is_image(path)]
    if not paths:
        raise DataError(f"{tree.place('images')} holds no image (suffixes read: {', '.join(SUFFIXES)})")
    return sorted(paths)


def _is_image(path: str) -> bool:
    return path.startswith("images/") and PurePosixPath(path).suffix.lower() in SUFFIXES


def _classes(config: DatasetConfig, tree: Tree) -> ClassTable:
    """The parameters' classes or those of ``classes.txt``, which must agree: the masks follow the file."""
    if not config.classes:
        return class_table(_class_names(tree), config)
    classes = class_table(config.classes, config)
    listed = _class_names(tree) if CLASSES in tree.files else list(classes.names)
    if listed != list(classes.names):
        raise DataError(
            f"{tree.place(CLASSES)} and dataset.classes differ "
            f"({', '.join(listed[:5])}, …; {', '.join(classes.names[:5])}, …). "
            "Set dataset.classes to null to take the file's."
        )
    return classes


def _class_names(tree: Tree) -> list[str]:
    place = tree.place(CLASSES)
    names = [line.strip() for line in read_text(tree, CLASSES).rstrip().splitlines()]
    if not all(names):
        raise DataError(
            f"{place} line {names.index('') + 1} is empty; line numbers are mask values, so name every line"
        )
    if not names:
        raise DataError(f"{place} is empty; write one class name a line")
    return names


def _read_labels(images: _Images, classes: ClassTable) -> dict[str, tuple[int, ...]]:
    """Labels as mask values, by key; images with a row that cannot be used become faulty."""
    labels: dict[str, tuple[int, ...]] = {}
    seen: set[str] = set()
    same: dict[tuple[int, ...], tuple[int, ...]] = {}  # labels that many images share are kept once
    table = read_table(
        images.tree, LABELS, columns=("image", "classes"), hint="separate classes with ';', not with ','"
    )
    for line, (image, cell) in table:
        where = f"{images.tree.place(LABELS)} line {line}"
        key = images.key(image, file=LABELS, line=line)
        if key is None or (key in images.faulty and key not in seen):
            continue
        if key in seen:
            raise DataError(f"{where}: image {image!r} has a row already; join its classes with ';' in one row")
        seen.add(key)
        names = [name.strip() for name in cell.split(";") if name.strip()]
        wrong = _wrong_names(names, classes)
        if wrong:
            images.refuse(key, Problem(images.paths[key], f"{where}: {wrong}"))
        values = {classes.names.index(name) for name in names if not wrong}
        found = tuple(sorted(values - {classes.background}))
        labels[key] = same.setdefault(found, found)
    return labels


def _wrong_names(names: Sequence[str], classes: ClassTable) -> str | None:
    if not names:
        return "the image has no class; name at least one in the column 'classes'"
    unknown = sorted(set(names) - set(classes.names))
    if unknown:
        return f"unknown class {', '.join(map(repr, unknown))}; valid names: {', '.join(classes.names)}"
    return None


def _read_splits(images: _Images) -> dict[str, list[str]]:
    """The keys of each split, in the order of the split files, or ascending where there are none."""
    splits: dict[str, list[str]] = {"train": [], "val": []}
    if not any(path.startswith("splits/") for path in images.tree.files):
        for key in sorted(images.paths):
            splits[split_by_hash(key, train_share=TRAIN_SHARE)].append(key)
        return splits
    for name in splits:
        splits[name] = _read_split(images, f"splits/{name}.txt")
    both = sorted(set(splits["train"]) & set(splits["val"]))
    if both:
        place = images.tree.place("splits")
        raise DataError(f"{place}: {len(both)} images are in train and in val, such as {both[0]!r}")
    return splits


def _read_tune(images: _Images, train: Sequence[str]) -> frozenset[str]:
    """The keys of the tune list; none where there is no list."""
    if TUNE not in images.tree.files:
        return frozenset()
    tune = frozenset(_read_split(images, TUNE))
    if outside := sorted(tune - set(train)):
        raise DataError(
            f"{images.tree.place(TUNE)}: {len(outside)} images are not in splits/train.txt, such as {outside[0]!r}; "
            "settings are chosen by masks of train images"
        )
    return tune


def _read_split(images: _Images, path: str) -> list[str]:
    keys: dict[str, None] = {}
    for line, image in enumerate(read_text(images.tree, path).splitlines(), start=1):
        key = images.key(image.strip(), file=path, line=line) if image.strip() else None
        if key is None:
            continue
        if key in keys and key not in images.faulty:
            raise DataError(f"{images.tree.place(path)} line {line}: image {image.strip()!r} is listed twice")
        keys[key] = None
    return list(keys)


def _masks_by_stem(images: _Images) -> dict[str, str]:
    """Paths of the masks by the stem of their images; an image with two becomes faulty."""
    tree = images.tree
    stems = {PurePosixPath(path).stem: key for key, path in images.paths.items()}
    twice: list[Problem] = []
    masks = folder_files(tree, "masks", suffixes=(".png", *GEOTIFF), problems=twice)
    others = [path for path in tree.files if path.startswith("masks/")]
    if others and not masks:
        # Masks of another kind would silently count as "no truth".
        raise DataError(
            f"{tree.place('masks')} holds no mask (suffixes read: .png, {', '.join(GEOTIFF)}), but "
            f"{others[0].removeprefix('masks/')}; convert the masks without loss, or remove the folder"
        )
    if masks and not masks.keys() & stems.keys():
        # So would masks under other names.
        raise DataError(
            f"{tree.place('masks')}: none of the {len(masks)} masks has the name of an image; the mask of images/a.jpg "
            f"must be masks/a.png (or .tif), found {PurePosixPath(min(masks.values())).name}"
        )
    for found in twice:
        stem = PurePosixPath(found.path).stem
        if stem in stems:
            images.refuse(stems[stem], found)
    return masks


def _entries(
    images: _Images, keys: Sequence[str], *, labels: Mapping[str, tuple[int, ...]], masks: Mapping[str, str]
) -> list[Entry]:
    entries = []
    for key in keys:
        path = PurePosixPath(images.paths[key])
        if key not in labels and key not in images.faulty:
            message = f"image {path.name!r} has no row; every image needs its classes"
            images.refuse(key, Problem(str(path), f"{images.tree.place(LABELS)}: {message}"))
        if key not in images.faulty:
            mask = {"mask": masks[path.stem]} if path.stem in masks else {}
            entries.append(Entry(key, {"image": str(path), **mask}, labels[key]))
    return entries
