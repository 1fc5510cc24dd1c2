"""Readers of raw data sets, one file a layout on disk, and the table that finds them by name.

The way of a sample through them:

* ``open_dataset`` calls the reader of ``dataset.format`` and checks what it gives.
* The reader, a file of the format's name, says which files are samples, in which split, and with which labels; pictures
  are decoded later.
* ``reader`` is what they give: a ``RawDataset`` of entries, and a ``decode`` that makes a ``Sample`` of one.
* ``listing`` finds folders, lists and tables for them; ``split_by_hash`` is the split where there is no list.
* ``photographs`` (8 bits, and masks) and ``rasters`` (GeoTIFFs, NumPy arrays) decode what the files hold.
* ``folder_images``, ``sbd``, ``coco_instances``, ``coco_truth``, ``coco_masks`` and ``coco_classes`` each serve one
  reader; ``demo`` writes a data set in the layout of DFC2020.

A new layout is one such file, a line in ``READERS``, and its name in ``Format`` of ``ctm.data.config``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from ctm.data.config import DatasetConfig
from ctm.data.datasets.ade20k import open_ade20k
from ctm.data.datasets.coco2014 import open_coco2014
from ctm.data.datasets.dfc2020 import open_dfc2020
from ctm.data.datasets.endotect import open_endotect
from ctm.data.datasets.folder import open_folder
from ctm.data.datasets.reader import Problem, RawDataset
from ctm.data.datasets.voc2012 import open_voc2012
from ctm.errors import DataError
from ctm.runtime.storage import Tree

__all__ = ["READERS", "open_dataset"]

READERS: dict[str, Callable[[DatasetConfig, Tree], RawDataset]] = {
    "ade20k": open_ade20k,
    "coco2014": open_coco2014,
    "dfc2020": open_dfc2020,
    "endotect": open_endotect,
    "folder": open_folder,
    "voc2012": open_voc2012,
}
"""The reader of each ``dataset.format``."""


def open_dataset(config: DatasetConfig, tree: Tree) -> RawDataset:
    """Reads the lists of the raw data set that lies in ``tree``.

    Raises:
        DataError: the tree does not have the format's layout, a list contradicts itself, two images get one key, or a
            split is empty.
        ParamsError: the configuration contradicts the format.
        StorageError: the tree cannot be read.
    """
    refused = [Problem(path, f"{tree.place(path)} is {reason}") for path, reason in tree.refused.items()]
    try:
        dataset = READERS[config.format](config, tree)
    except DataError as error:
        # What a reader misses may be there, as a link that is not followed.
        raise DataError("; ".join([str(error), *(one.message for one in refused[:1])])) from error
    bad = {found.path for found in dataset.problems}
    splits = {
        name: [entry for entry in entries if bad.isdisjoint(entry.files.values())]
        for name, entries in dataset.splits.items()
    }
    counts = Counter(entry.key for entries in splits.values() for entry in entries)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"{tree.uri}: {len(twice)} images occur twice, such as {twice[0]!r}; each may be in one split")
    for name, entries in splits.items():
        if not entries:
            hint = "".join(f"; {found.message}" for found in (*refused, *dataset.problems)[:1])
            raise DataError(f"{tree.uri}: split {name!r} has no image{hint}")
    left_out = {reason: count for reason, count in dataset.left_out.items() if count}
    return replace(dataset, splits=splits, problems=(*refused, *dataset.problems), left_out=left_out)
