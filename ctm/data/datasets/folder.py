"""Reader of the plain folder layout: photographs, a table of their labels, and masks where there are any."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ctm.data.classes import IGNORE
from ctm.data.config import DatasetConfig
from ctm.data.datasets.reader import check_channels, class_table
from ctm.data.sample import UNREADABLE, Sample, decode_mask, safe_key
from ctm.errors import DataError

__all__ = ["FolderReader"]

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
STORED_AS_IS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}
"""File formats whose bytes go into the shards unchanged; MPO is a camera's JPEG with a preview behind it."""
EIGHT_BIT_MODES = {"1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"}
TRAIN_SHARE = 0.8


class FolderReader:
    """A folder of 8-bit photographs.

    Where the files lie::

        images/*.jpg        or .jpeg, .png, .bmp, .tif, .tiff, .webp
        labels.csv          columns ``image`` (file name, with or without suffix) and ``classes`` (separated by ;)
        classes.txt         one class name a line; the line number, from 0, is the mask value
        masks/*.png         optional truth for evaluation: class indices (palette or greyscale), 255 = ignore
        splits/train.txt    optional, with splits/val.txt: one image a line

    Without ``splits`` every image goes to train (80 %) or val by a hash of its name. A label that names the
    background class is dropped, so that a row with nothing else says that an image holds none of the classes.

    Attributes:
        classes: what the mask values mean.
        channels: 3, for RGB.
        scale: 1/255.
    """

    channels = 3
    scale = 1 / 255

    def __init__(self, config: DatasetConfig, root: Path) -> None:
        """Reads the lists; images and masks are read one by one later.

        Raises:
            DataError: a file is missing, or the lists contradict each other or the images.
            ParamsError: the configuration contradicts the data.
        """
        check_channels(config, self.channels)
        self._root = root
        self.classes = class_table(config.classes or _class_names(root / "classes.txt"), config)
        _check_names(self.classes.names, root / "classes.txt")
        self._images = _images_by_key(root / "images")
        self._aliases = _aliases(self._images)
        self._labels = self._read_labels(root / "labels.csv")
        self._splits = self._read_splits(root / "splits")
        self._check_mask_names(root / "masks")

    def splits(self) -> Mapping[str, Sequence[str]]:
        """The keys of ``train`` and ``val``, in the order of the split files, or sorted where there are none."""
        return self._splits

    def read(self, split: str, key: str) -> Sample:
        """Reads and validates one image and its mask.

        Raises:
            DataError: the image or the mask is unreadable, the mask has another size than the image, or a mask value
                is no class.
        """
        path = self._images[key]
        image, extension, (width, height) = _read_photograph(path)
        mask_path = self._root / "masks" / f"{path.stem}.png"
        mask = self._read_mask(mask_path, (height, width)) if mask_path.is_file() else None
        return Sample(key, image, extension, height, width, labels=self._labels[key], mask=mask)

    def _read_labels(self, table: Path) -> dict[str, tuple[int, ...]]:
        labels: dict[str, tuple[int, ...]] = {}
        for line, image, cell in _label_rows(table):
            where = f"{table} line {line}"
            key = self._key(image, where)
            if key in labels:
                raise DataError(f"{where}: image {image!r} has a row already; join its classes with ';' in one row")
            labels[key] = self._mask_values(cell, where)
        return labels

    def _mask_values(self, cell: str, where: str) -> tuple[int, ...]:
        names = [name.strip() for name in cell.split(";") if name.strip()]
        if not names:
            raise DataError(f"{where}: the image has no class; name at least one in the column 'classes'")
        unknown = sorted(set(names) - set(self.classes.names))
        if unknown:
            raise DataError(
                f"{where}: unknown class {', '.join(map(repr, unknown))}; valid names: {', '.join(self.classes.names)}"
            )
        values = {self.classes.names.index(name) for name in names}
        return tuple(sorted(values - {self.classes.background}))

    def _key(self, image: str, where: str) -> str:
        if image not in self._aliases:
            raise DataError(
                f"{where}: no image {image!r} in {self._root / 'images'} (suffixes read: {', '.join(SUFFIXES)}); "
                "add the file or remove the line"
            )
        return self._aliases[image]

    def _read_splits(self, folder: Path) -> dict[str, list[str]]:
        if folder.is_dir():
            splits = {name: self._read_split(folder / f"{name}.txt") for name in ("train", "val")}
            both = sorted(set(splits["train"]) & set(splits["val"]))
            if both:
                raise DataError(f"{folder}: {len(both)} images are in train and in val, such as {both[0]!r}")
        else:
            splits = {"train": [], "val": []}
            for key in sorted(self._images):
                splits[_split_by_hash(key)].append(key)
        for name, keys in splits.items():
            if not keys:
                raise DataError(f"{self._root}: split {name!r} is empty; list its images in splits/{name}.txt")
            for key in keys:
                if key not in self._labels:
                    raise DataError(
                        f"{self._root / 'labels.csv'}: image {self._images[key].name!r} of split {name!r} has no row; "
                        "every image needs its classes"
                    )
        return splits

    def _read_split(self, path: Path) -> list[str]:
        keys: dict[str, None] = {}
        for line, image in enumerate(_read_text(path).splitlines(), start=1):
            if not image.strip():
                continue
            key = self._key(image.strip(), f"{path} line {line}")
            if key in keys:
                raise DataError(f"{path} line {line}: image {image.strip()!r} is listed twice")
            keys[key] = None
        return list(keys)

    def _check_mask_names(self, folder: Path) -> None:
        """Masks under other names would silently count as "no truth"."""
        stems = {path.stem for path in folder.glob("*.png")}
        if stems and not stems & {path.stem for path in self._images.values()}:
            raise DataError(
                f"{folder}: none of the {len(stems)} masks has the name of an image; "
                f"the mask of images/a.jpg must be masks/a.png, found {min(stems)}.png"
            )

    def _read_mask(self, path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
        try:
            mask = decode_mask(path.read_bytes())
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        if mask.shape != size:
            raise DataError(
                f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels (width x height), "
                f"but its image is {size[1]}x{size[0]}; both must be of one size"
            )
        wrong = sorted(set(np.unique(mask).tolist()) - set(range(len(self.classes.names))) - {IGNORE})
        if wrong:
            raise DataError(
                f"{path}: mask values {wrong} are no class; valid are 0 to {len(self.classes.names) - 1} "
                f"(the lines of classes.txt) and {IGNORE} (ignore)"
            )
        return mask


def _read_text(path: Path) -> str:
    """The text of a UTF-8 file with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; the layout of format 'folder' needs it") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error


def _check_names(names: Sequence[str], path: Path) -> None:
    """Checks that the parameters' classes are those of ``classes.txt`` where there is one: masks follow the file."""
    if path.is_file() and _class_names(path) != list(names):
        raise DataError(
            f"{path} and dataset.classes differ ({', '.join(_class_names(path)[:5])}, …; {', '.join(names[:5])}, …). "
            "Set dataset.classes to null to take the file's."
        )


def _class_names(path: Path) -> list[str]:
    names = [line.strip() for line in _read_text(path).rstrip().splitlines()]
    if not all(names):
        raise DataError(f"{path} line {names.index('') + 1} is empty; line numbers are mask values, so name every line")
    if not names:
        raise DataError(f"{path} is empty; write one class name a line")
    return names


def _label_rows(path: Path) -> list[tuple[int, str, str]]:
    """Line number, image and classes of each row."""
    rows = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    missing = {"image", "classes"} - set(rows.fieldnames or ())
    if missing:
        raise DataError(
            f"{path}: no column {' and '.join(map(repr, sorted(missing)))} in the first line; "
            f"found {list(rows.fieldnames or ())}"
        )
    result = []
    for row in rows:
        if None in row:
            raise DataError(
                f"{path} line {rows.line_num}: more cells than columns; separate classes with ';', not with ','"
            )
        result.append((rows.line_num, (row["image"] or "").strip(), row["classes"] or ""))
    return result


def _images_by_key(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing; the layout of format 'folder' needs it")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
            continue
        key = safe_key(path.stem)
        if key in images:
            raise DataError(f"{folder}: {images[key].name!r} and {path.name!r} get one key ({key!r}); rename one")
        images[key] = path
    if not images:
        raise DataError(f"{folder} holds no image (suffixes read: {', '.join(SUFFIXES)})")
    return images


def _aliases(images: Mapping[str, Path]) -> dict[str, str]:
    """The key of every spelling that lists may use: the file's stem or its full name."""
    by_stem = {path.stem: key for key, path in images.items()}
    return by_stem | {path.name: key for key, path in images.items()}


def _split_by_hash(key: str) -> str:
    """Depends on nothing but the key: a new image never moves an old one to the other split."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
    return "train" if number < TRAIN_SHARE * 2**64 else "val"


def _read_photograph(path: Path) -> tuple[bytes, str, tuple[int, int]]:
    """Bytes to store, their extension, and (width, height)."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode not in EIGHT_BIT_MODES:
                raise DataError(f"{path}: colour mode {image.mode!r}; format 'folder' reads 8-bit photographs only")
            if image.format in STORED_AS_IS:
                return data, STORED_AS_IS[image.format], image.size
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, format="PNG")
            return buffer.getvalue(), "png", image.size
    except UNREADABLE as error:
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{path} is no readable image ({reason}); replace the file or remove it from the lists"
        ) from error
