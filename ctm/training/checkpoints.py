"""Checkpoints of an unfinished training, outside the stage's outputs."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from ctm.errors import ArtifactError, StorageError
from ctm.runtime.outputs import remove, staged_outputs, write_text

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ctm.runtime.checkpoint_store import CheckpointStore

__all__ = ["Checkpoints"]

NAMES = ("best", "last")
"""In the order in which they are saved: the last state says how good the best is."""


class Checkpoints:
    """The last and the best state of one run, each replaced whole.

    Args:
        folder: belongs to this very run (its name is the run's fingerprint), so whatever lies there fits.
        resume: read what an interrupted run left; otherwise remove it and start anew.
        store: keeps every state beside the folder, where the folder goes with its machine.
        suffix: of the states' names, where several trainings share a folder.

    Raises:
        ArtifactError: a state in the store is damaged.
        StorageError: the folder or the store cannot be written: before the training, not after its first epoch.
    """

    def __init__(self, folder: Path, *, resume: bool, store: CheckpointStore | None = None, suffix: str = "") -> None:
        self.folder = folder
        self._suffix = suffix
        self.resume = resume
        self._store = store
        _prove(folder)
        kept = store.open() if store else ()
        if not resume:
            self._clear()
        elif store:
            self._agree(store, kept)

    def save(self, fabric: Fabric, name: str, state: dict[str, Any]) -> None:
        """Writes the state ``name`` (``last`` or ``best``).

        Raises:
            StorageError: the store does not take it.
        """
        path = self._path(name)
        with staged_outputs({"state": path}) as staged:
            fabric.save(staged["state"], state)
        if self._store is not None:
            self._store.put(path)

    def load(self, fabric: Fabric, name: str, state: dict[str, Any]) -> bool:
        """Restores the state ``name`` into the objects of ``state`` in place; False if there is none.

        Raises:
            ArtifactError: the file is damaged.
        """
        path = self._path(name)
        if not path.is_file():
            return False
        try:
            fabric.load(path, state, weights_only=True)
        except (EOFError, KeyError, OSError, RuntimeError, ValueError, UnpicklingError) as error:
            raise ArtifactError(
                f"{path}: damaged checkpoint ({type(error).__name__}). Remove it, or start anew with --resume never."
            ) from error
        return True

    def _clear(self) -> None:
        """Removes the states of another training: one of them beside one of this training would be a mixture."""
        for name in NAMES:
            remove(self._path(name))
        if self._store is not None:
            self._store.clear()

    def _agree(self, store: CheckpointStore, kept: Collection[str]) -> None:
        """Brings both to the same states: the store's, unless it has none to go on from but the folder has."""
        files = [self._path(name) for name in NAMES]
        has_last = self._path("last").name in kept
        for file in files:
            if has_last and file.name in kept:
                store.get(file)
            elif not has_last and file.is_file():
                store.put(file)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{self._suffix}.ckpt"


def _prove(folder: Path) -> None:
    """Makes the folder and checks that files can be written and replaced there."""
    proof = folder / "proof"
    try:
        write_text(proof, "ctm was here\n")
        remove(proof)
    except OSError as error:
        raise StorageError(
            f"checkpoints cannot be written to {folder} by user {os.geteuid()} of group {os.getegid()} "
            f"({error.strerror}): name a folder with --checkpoints that can, or mount one there"
        ) from error
