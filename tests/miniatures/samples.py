"""Reading single samples of a raw data set, for tests that look at what a reader makes of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ctm.data.config import DatasetConfig, PreprocessConfig
from ctm.data.datasets import open_dataset
from ctm.data.datasets.reader import Entry, RawDataset, RawFile
from ctm.data.findings import SplitFindings
from ctm.data.pack import Packing, write_dataset_shards
from ctm.data.sample import Sample
from ctm.runtime.storage import open_tree


def opened(config: DatasetConfig, root: Path) -> RawDataset:
    """The data set in a local folder."""
    return open_dataset(config, open_tree(str(root)))


def keys(dataset: RawDataset) -> dict[str, list[str]]:
    """The keys of each split."""
    return {split: [entry.key for entry in entries] for split, entries in dataset.splits.items()}


def read(config: DatasetConfig, root: Path, split: str, key: str) -> Sample:
    """One sample of the data set in a local folder."""
    dataset = opened(config, root)
    return _decoded(dataset, root, next(entry for entry in dataset.splits[split] if entry.key == key))


def read_all(config: DatasetConfig, root: Path) -> dict[str, Sample]:
    """Every sample, by key."""
    dataset = opened(config, root)
    return {entry.key: _decoded(dataset, root, entry) for entries in dataset.splits.values() for entry in entries}


def _decoded(dataset: RawDataset, root: Path, entry: Entry) -> Sample:
    tree = open_tree(str(root))
    files = {role: RawFile(tree.place(path), tree.read(path)) for role, path in entry.files.items()}
    return dataset.decode(entry, files)


def packed(
    config: DatasetConfig,
    root: Path,
    folder: Path,
    *,
    normalise: Literal["none", "imagenet", "statistics"] = "statistics",
    workers: int = 1,
    **settings: Any,
) -> dict[str, SplitFindings]:
    """Writes the data set in a local folder as shards of 1 MB, and what was found in it."""
    packing = Packing(
        normalise=normalise,
        settings=PreprocessConfig(**{"shard_mb": 1} | settings),
        workers=workers,
        progress=folder.with_name(f"{folder.name}.progress"),
        resume=True,
    )
    tree = open_tree(str(root))
    return write_dataset_shards(open_dataset(config, tree), tree, folder, packing)
