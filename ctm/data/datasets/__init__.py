"""Readers of raw data sets, one file a layout on disk, and the table that finds them by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ctm.data.config import DatasetConfig
from ctm.data.datasets.dfc2020 import Dfc2020Reader
from ctm.data.datasets.folder import FolderReader
from ctm.data.datasets.reader import Reader
from ctm.errors import DataError

__all__ = ["READERS", "open_dataset"]

READERS: dict[str, Callable[[DatasetConfig, Path], Reader]] = {
    "dfc2020": Dfc2020Reader,
    "folder": FolderReader,
}
"""The reader of each ``dataset.format``."""


def open_dataset(config: DatasetConfig, root: Path) -> Reader:
    """Opens the raw data set in the local folder ``root``.

    Raises:
        DataError: the folder is missing, its format has no reader yet, or its contents are inconsistent.
        ParamsError: the configuration contradicts the data.
    """
    if config.format not in READERS:
        raise DataError(
            f"dataset.format {config.format!r} cannot be read yet; formats that can: {', '.join(sorted(READERS))}"
        )
    if not root.is_dir():
        raise DataError(f"the raw data folder {root} does not exist; set dataset.root to where the data lie")
    return READERS[config.format](config, root)
