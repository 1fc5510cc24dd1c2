"""Where the state of unfinished runs lies: a folder, and for machines that lose their disk a place in S3 beside it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from ctm.errors import StorageError
from ctm.runtime.outputs import remove
from ctm.runtime.storage import is_remote

__all__ = ["WORKING_FOLDER", "CheckpointStore", "end_checkpoints", "open_checkpoints"]

logger = logging.getLogger(__name__)

WORKING_FOLDER = Path(".ctm/checkpoints")
"""Where checkpoints lie unless another folder is named, and where they are written before they go to a store."""


class CheckpointStore(Protocol):
    """Keeps files of one run by their names, each whole or not at all."""

    uri: str
    """The run's own place in the store."""

    @property
    def is_used(self) -> bool:
        """Whether a stage has opened it: most have nothing to keep."""

    def open(self) -> Collection[str]:
        """The names of what is kept. Proves that more can be: called before the work whose results that will be.

        Raises:
            StorageError: the place cannot be reached, or one of the rights it takes is missing.
        """

    def put(self, file: Path) -> None:
        """Keeps a file in place of the one that was kept by its name.

        Raises:
            StorageError: it cannot be kept; what was kept before still is.
        """

    def get(self, file: Path) -> None:
        """Makes ``file`` the one that is kept by its name.

        Raises:
            ArtifactError: what is kept is not what was put.
            StorageError: it cannot be reached.
        """

    def drop(self, name: str) -> None:
        """Keeps the file of that name no longer.

        Raises:
            StorageError: it cannot be removed.
        """

    def clear(self) -> None:
        """Removes all files of the run.

        Raises:
            StorageError: they cannot be removed.
        """


def open_checkpoints(place: Path | str, run: str) -> tuple[Path, CheckpointStore | None]:
    """The folder in which a run writes its checkpoints, and the store that keeps them; no request is made yet.

    Args:
        place: a folder, which is all then, or ``s3://bucket/prefix``.
        run: names this very run: ``<stage>/<fingerprint>``.

    Raises:
        StorageError: the address has no bucket, or S3 needs a library that is not installed.
    """
    if not is_remote(str(place)):
        return Path(place, run), None
    from ctm.runtime.s3_checkpoints import S3Checkpoints

    return WORKING_FOLDER / run, S3Checkpoints(str(place), run)


def end_checkpoints(folder: Path, store: CheckpointStore | None) -> None:
    """Removes the checkpoints of a run that has ended well; what a store does not let go of is no error any more."""
    remove(folder)
    if store is not None and store.is_used:
        try:
            store.clear()
        except StorageError as error:
            logger.warning("remove %s yourself, it is not needed any more: %s", store.uri, error)
