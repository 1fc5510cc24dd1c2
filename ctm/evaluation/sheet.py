"""A sheet of pictures: a row for each sample; columns for image, truth, and the mask of every way to make one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.display import display_rgb
from ctm.data.shards import TRUTH, Split
from ctm.evaluation.figures import mask_picture, photo_picture

__all__ = ["Sheet", "SheetRow", "make_sheet", "sheet_legend", "sheet_pictures", "shown_classes"]

LONGEST_SIDE = 200
"""Size of a picture in pixels at most: a sheet has many, and they are compared and not studied."""


@dataclass(frozen=True)
class SheetRow:
    """One sample.

    Attributes:
        key: of the sample.
        labels: names of its image-level labels.
        image: (H, W, 3) uint8, as display_rgb makes it.
        masks: (H, W) mask values in the order of the sheet's columns; None leaves a gap.
    """

    key: str
    labels: Sequence[str]
    image: NDArray[np.uint8]
    masks: Sequence[NDArray[np.uint8] | None]


@dataclass(frozen=True)
class Sheet:
    """The masks of some samples by several ways, whose names are ``columns``; ``marked`` is one of them or None."""

    columns: Sequence[str]
    rows: Sequence[SheetRow]
    marked: str | None = None


def make_sheet(
    split: Split,
    indices: Sequence[int],
    masks: Mapping[str, Mapping[int, NDArray[np.uint8]]],
    *,
    classes: ClassTable,
    marked: str | None = None,
) -> Sheet:
    """The sheet of some samples of a split; it begins with the truth where one of them has any.

    Args:
        split: the samples.
        indices: of those that are shown.
        masks: for each way the masks by the samples' indices.
        classes: what the mask values mean.
        marked: the way that is pointed out.
    """
    truth = {index: split.mask(index, TRUTH) for index in indices if split.has(index, TRUTH)}
    columns = {**({"truth": truth} if truth else {}), **masks}
    rows = [
        SheetRow(
            key=split.keys[index],
            labels=[classes.token_names[c] for c in np.flatnonzero(split.labels[index])],
            image=display_rgb(split.image(index)),
            masks=[found.get(index) for found in columns.values()],
        )
        for index in indices
    ]
    return Sheet(list(columns), rows, marked)


def sheet_pictures(sheet: Sheet, colours: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """The rows with pictures as data URIs: key, labels, image, and masks with their columns' names."""
    return [
        {
            "key": row.key,
            "labels": row.labels,
            "image": photo_picture(row.image, side=LONGEST_SIDE),
            "masks": [
                (name, None if mask is None else mask_picture(row.image, mask, colours, side=LONGEST_SIDE))
                for name, mask in zip(sheet.columns, row.masks, strict=True)
            ],
        }
        for row in sheet.rows
    ]


def sheet_legend(sheet: Sheet, classes: ClassTable) -> list[str]:
    """Names of the classes that some picture or label of a sheet shows."""
    labels = [name for row in sheet.rows for name in row.labels]
    return shown_classes(classes, labels, [mask for row in sheet.rows for mask in row.masks])


def shown_classes(classes: ClassTable, labels: Iterable[str], masks: Iterable[NDArray[np.uint8] | None]) -> list[str]:
    """Names of the classes that are among the labels or in a mask, in the order of their mask values."""
    shown = set(labels)
    for mask in masks:
        shown |= {classes.names[k] for k in np.unique(mask) if k != IGNORE} if mask is not None else set()
    return [name for name in classes.names if name in shown]
