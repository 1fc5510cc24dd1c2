"""Reader of HyperKvasir, the data of EndoTect 2020: endoscopy photographs of 23 findings, and masks of polyps."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import ClassTable
from ctm.data.config import DatasetConfig
from ctm.data.datasets.listing import find_prefix, one_a_name, problem, read_table
from ctm.data.datasets.photographs import check_size, read_photograph
from ctm.data.datasets.reader import Entry, Problem, RawDataset, RawFile, check_channels, class_table
from ctm.data.datasets.split_by_hash import split_by_hash
from ctm.data.sample import Sample, decode_image, safe_key
from ctm.errors import DataError, ParamsError
from ctm.runtime.storage import Tree

__all__ = ["CLASS_NAMES", "FINDINGS", "OFFICIAL_NAMES", "open_endotect"]

FINDINGS = (
    "cecum",
    "ileum",
    "retroflex-rectum",
    "hemorrhoids",
    "polyps",
    "ulcerative-colitis-grade-0-1",
    "ulcerative-colitis-grade-1",
    "ulcerative-colitis-grade-1-2",
    "ulcerative-colitis-grade-2",
    "ulcerative-colitis-grade-2-3",
    "ulcerative-colitis-grade-3",
    "bbps-0-1",
    "bbps-2-3",
    "impacted-stool",
    "dyed-lifted-polyps",
    "dyed-resection-margins",
    "pylorus",
    "retroflex-stomach",
    "z-line",
    "barretts",
    "barretts-short-segment",
    "esophagitis-a",
    "esophagitis-b-d",
)
"""The 23 findings as the folders are named: 16 of the lower tract, 7 of the upper."""
CLASS_NAMES = ("background", *FINDINGS)
OFFICIAL_NAMES = {
    "polyp": "polyps",
    "hemorroids": "hemorrhoids",
    "normal-cecum": "cecum",
    "normal-pylorus": "pylorus",
    "normal-z-line": "z-line",
    "oesophagitis-a": "esophagitis-a",
    "oesophagitis-b-d": "esophagitis-b-d",
    "short-segment-barretts": "barretts-short-segment",
}
"""The folder of each name in the tables of the official splits that is not the folder's own."""
POLYPS = "polyps"
"""The one finding that has masks."""

LABELLED = re.compile(r"(?:^|/)(?:lower|upper)-gi-tract/[^/]+/[^/]+/(?P<stem>[^/]+)\.jpe?g$", re.IGNORECASE)
MASKS = re.compile(r"(?:^|/)[^/]*segmented[^/]*/(?:.*/)?masks/(?P<stem>[^/]+)\.jpe?g$", re.IGNORECASE)
SUFFIX = re.compile(r"\.jpe?g$", re.IGNORECASE)
LABELS_TABLE = "image-labels.csv"
TRAIN_SHARE = 0.7
"""As the paper's release splits the images, which it does at random."""


class _Image(NamedTuple):
    """A labelled image."""

    path: str
    finding: str
    """The name of its folder."""


def open_endotect(config: DatasetConfig, tree: Tree) -> RawDataset:
    """HyperKvasir as it is unpacked.

    Where the files lie; the folders around the tracts and the masks are spelled in several ways::

        labeled-images/lower-gi-tract/<category>/<finding>/<name>.jpg       and upper-gi-tract
        labeled-images/image-labels.csv         optional; checked against the folders
        segmented-images/masks/<name>.jpg       optional: truth of the labelled polyps, white on black
        official_splits/2_fold_split.csv        for folds: 2, and 5_fold_split.csv for folds: 5

    The image-level label is the folder. Only polyps have masks: all other images, and polyps without one, have no
    truth, which is not the same as an empty mask.

    Raises:
        DataError: there are no labelled images, or a table is missing or contradicts itself.
        ParamsError: the configuration contradicts the format.
    """
    check_channels(config)
    classes = _classes(config)
    selected = [finding for finding in FINDINGS if finding in classes.names]
    twice: list[Problem] = []
    images = _images(tree, twice)
    wanted = {stem: image for stem, image in images.items() if image.finding in selected}
    bad = _unknown_folders(tree, images)
    left_out = {"images of findings that dataset.classes does not name": len(images) - len(wanted) - len(bad)}
    masks: dict[str, str] = {}
    if POLYPS in selected:
        masks = _by_stem(tree, MASKS, twice)
        polyps = {stem for stem, image in images.items() if image.finding == POLYPS}
        left_out["segmented images that are no labelled polyp"] = len(masks.keys() - polyps)
    labels = _image_labels(tree)
    fold = _official_split(tree, config.folds) if config.folds else None
    for found in filter(None, (fold, labels)):
        bad |= _contradictions(tree, wanted, found)
    bad |= {PurePosixPath(found.path).stem: found for found in twice}
    splits: dict[str, list[Entry]] = {"train": [], "val": []}
    for stem in sorted(wanted.keys() - bad.keys()):
        split = fold.rows[stem].split if fold else split_by_hash(safe_key(stem), train_share=TRAIN_SHARE)
        splits[split].append(_entry(stem, wanted[stem], masks, classes))
    problems = [bad[stem] for stem in sorted(bad)]
    if table := labels or fold:
        problems += _rows_without_image(tree, table, images, selected)
    values = {name: value for value, name in enumerate(classes.names)}
    decode = _Decode(background=values[str(config.background)], polyps=values.get(POLYPS))
    return RawDataset(classes, splits, decode, problems, left_out)


def _classes(config: DatasetConfig) -> ClassTable:
    """The findings that the configuration selects, all by default, and its background."""
    names = config.classes or CLASS_NAMES
    classes = class_table(names, config)
    if config.background is None or config.background in FINDINGS:
        raise ParamsError(
            "format 'endotect' needs a background, for what is no polyp in a mask: set dataset.background to a class "
            "that is no finding, such as 'background'"
        )
    unknown = [name for name in names if name not in {*FINDINGS, config.background}]
    if unknown:
        raise ParamsError(
            f"dataset.classes has {', '.join(map(repr, unknown))}, which is no finding of HyperKvasir; "
            f"valid names: {', '.join(FINDINGS)}"
        )
    return classes


def _images(tree: Tree, twice: list[Problem]) -> dict[str, _Image]:
    """The labelled images by their name without suffix."""
    paths = _by_stem(tree, LABELLED, twice)
    if not paths:
        raise DataError(
            f"{tree.uri} holds no labelled image of HyperKvasir: expected "
            "labeled-images/lower-gi-tract/<category>/<finding>/<name>.jpg, there or in a folder below"
        )
    return {stem: _Image(path, path.split("/")[-2]) for stem, path in paths.items()}


def _by_stem(tree: Tree, pattern: re.Pattern[str], twice: list[Problem]) -> dict[str, str]:
    """The files whose path matches, by the pattern's ``stem``; several of one are added to ``twice``."""
    matches = map(pattern.search, tree.files)
    return one_a_name(tree, [(match["stem"], match.string) for match in matches if match], problems=twice)


def _unknown_folders(tree: Tree, images: Mapping[str, _Image]) -> dict[str, Problem]:
    message = f"its folder is no finding of HyperKvasir; valid names: {', '.join(FINDINGS)}"
    return {stem: problem(tree, image.path, message) for stem, image in images.items() if image.finding not in FINDINGS}


def _entry(stem: str, image: _Image, masks: Mapping[str, str], classes: ClassTable) -> Entry:
    files = {"image": image.path}
    if image.finding == POLYPS and stem in masks:
        files["mask"] = masks[stem]
    return Entry(safe_key(stem), files, labels=(classes.names.index(image.finding),))


# The tables.


class _Row(NamedTuple):
    """What a table says of an image."""

    line: int
    finding: str
    """As the folders are named."""
    split: str = ""
    """``train`` or ``val``; empty if the table does not say."""


class _Table(NamedTuple):
    """A table with a row for each image."""

    path: str
    rows: dict[str, _Row]
    """By the image's name without suffix."""


def _image_labels(tree: Tree) -> _Table | None:
    """The release's own table of labels, which some mirrors lack."""
    prefix = find_prefix(tree, LABELS_TABLE)
    return None if prefix is None else _table(tree, f"{prefix}{LABELS_TABLE}", ("Video file", "Finding"))


def _official_split(tree: Tree, folds: int) -> _Table:
    """One of the release's splits; fold 0 is val."""
    name = f"official_splits/{folds}_fold_split.csv"
    prefix = find_prefix(tree, name)
    if prefix is None:
        raise DataError(
            f"{tree.uri} holds no {name}; put the folder official_splits of HyperKvasir's repository there, or set "
            "dataset.folds to null"
        )
    table = _table(tree, f"{prefix}{name}", ("file-name", "class-name", "split-index"), delimiter=";")
    for row in table.rows.values():
        if row.split not in map(str, range(folds)):
            raise DataError(
                f"{tree.place(table.path)} line {row.line}: split-index is {row.split!r}, expected 0 to {folds - 1}"
            )
    rows = {stem: row._replace(split="val" if row.split == "0" else "train") for stem, row in table.rows.items()}
    return _Table(table.path, rows)


def _table(tree: Tree, path: str, columns: Sequence[str], *, delimiter: str = ",") -> _Table:
    """A table whose columns are file name, finding and, in some, split."""
    rows: dict[str, _Row] = {}
    for line, (file, finding, *split) in read_table(tree, path, columns=columns, delimiter=delimiter):
        stem = SUFFIX.sub("", file)
        if stem in rows:
            raise DataError(f"{tree.place(path)} line {line}: {file!r} has a row already, in line {rows[stem].line}")
        rows[stem] = _Row(line, OFFICIAL_NAMES.get(finding, finding), *split)
    return _Table(path, rows)


def _contradictions(tree: Tree, images: Mapping[str, _Image], table: _Table) -> dict[str, Problem]:
    """Images that a table lacks, or calls something else than their folder does."""
    place = tree.place(table.path)
    bad = {}
    for stem, image in images.items():
        row = table.rows.get(stem)
        if row is None:
            bad[stem] = problem(tree, image.path, f"no row in {place}; add one or remove the image")
        elif row.finding != image.finding:
            message = (
                f"its folder says {image.finding!r}, but {place} line {row.line} {row.finding!r}; mend one of them"
            )
            bad[stem] = problem(tree, image.path, message)
    return bad


def _rows_without_image(
    tree: Tree, table: _Table, images: Mapping[str, _Image], selected: Collection[str]
) -> list[Problem]:
    """Rows that name no image, unless of a finding that is left out anyway: not everybody downloads both tracts."""
    return [
        problem(tree, table.path, f"line {row.line}: no image {stem}.jpg; add the file or remove the row")
        for stem, row in table.rows.items()
        if stem not in images and (row.finding in selected or row.finding not in FINDINGS)
    ]


# One image.


@dataclass(frozen=True)
class _Decode:
    """Makes a sample of a photograph and its polyp mask, if it has one."""

    background: int
    polyps: int | None
    """Mask value of polyps; None where they are no class."""

    def __call__(self, entry: Entry, files: Mapping[str, RawFile]) -> Sample:
        photograph = read_photograph(files["image"])
        labels, notes = entry.labels or (), tuple[str, ...]()
        mask: NDArray[np.uint8] | None = None
        if self.polyps is not None and "mask" in files:
            white = _white(files["mask"], photograph.size)
            mask = np.where(white, np.uint8(self.polyps), np.uint8(self.background))
        elif self.polyps in labels:
            notes = ("a polyp without a mask, so without truth",)
        return photograph.sample(entry.key, labels=labels, mask=mask, notes=notes)


def _white(file: RawFile, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where a mask is white, (H, W): the masks are JPEGs, whose black and white are noisy."""
    try:
        white: NDArray[np.bool_] = decode_image(file.data, "jpg").mean(axis=0) > 127  # (3, H, W) to (H, W)
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from error
    check_size(file, white.shape, size)
    return white
