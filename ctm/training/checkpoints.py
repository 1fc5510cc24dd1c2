"""Checkpoints of an unfinished training, outside the stage's outputs."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch

from ctm.errors import ArtifactError, StorageError
from ctm.runtime.checkpoint_store import CheckpointStore
from ctm.runtime.context import Context
from ctm.runtime.digest import digest_artifact
from ctm.runtime.outputs import remove, write_text

__all__ = ["KEPT", "Checkpoints", "Position", "open_round"]

logger = logging.getLogger(__name__)

KEPT = 2
"""States that are kept: the newest, and the one before it, should the newest turn out to be damaged."""

NAME = re.compile(r"(?P<course>.+)-(?P<epoch>\d{6})-(?P<batch>\d{9})-(?P<digest>[0-9a-f]{16})\.ckpt")


class Position(NamedTuple):
    """How far a training is: the epochs that have ended, and the batches done of the next one."""

    epoch: int
    batch: int


class Checkpoints:
    """The last states of one training, each a file whose name says how far it is and the digest of its bytes.

    A state appears whole or not at all, and is held against its digest when it is read: of what was cut short or
    changed, the name says that it is not what was saved, and the state before it is taken.

    Args:
        folder: belongs to this very run (its name is the run's fingerprint), so whatever lies there fits.
        resume: read what an interrupted run left; otherwise remove it, of all trainings, and start anew.
        store: keeps every state beside the folder, where the folder goes with its machine.
        course: name of the training, where several share a folder.

    Raises:
        StorageError: the folder or the store cannot be written: before the training, not after its first epoch.
    """

    def __init__(
        self, folder: Path, *, resume: bool, store: CheckpointStore | None = None, course: str = "round0"
    ) -> None:
        self.folder = folder
        self._course, self._store = course, store
        _prove(folder)
        self._stored = set(store.open()) if store else set()
        if not resume:
            self._drop(self._found())

    def save(self, position: Position, state: dict[str, Any]) -> None:
        """Writes a state of tensors, numbers, texts, lists and dictionaries, and drops those that are too old.

        Raises:
            StorageError: the disk or the store does not take it; the states before it are as they were.
        """
        path = self._write(position, state)
        if self._store is not None:
            self._store.put(path)
            self._stored.add(path.name)
        self._drop(self._names()[KEPT:])

    def load(self) -> dict[str, Any] | None:
        """The newest state that is as it was saved, its tensors on the CPU; None if none was saved.

        Raises:
            ArtifactError: there are states, and all of them are damaged.
        """
        found = self._names()
        for number, name in enumerate(found):
            try:
                state = self._read(name)
            except ArtifactError as error:
                logger.warning("%s It is left out.", error)
            else:
                self._drop(found[:number])  # or they would be taken for the newest again, and kept
                return state
        if found:
            raise ArtifactError(
                f"{self.folder}: every checkpoint is damaged ({', '.join(found)}). Start anew with --resume never."
            )
        return None

    def _names(self) -> list[str]:
        """The names of this training's states in the folder and in the store, the furthest first."""
        return sorted((name for name in self._found() if name.startswith(f"{self._course}-")), reverse=True)

    def _found(self) -> list[str]:
        """The names of the states of all trainings."""
        here = {path.name for path in self.folder.glob("*.ckpt")}
        return [name for name in here | self._stored if NAME.fullmatch(name)]

    def _write(self, position: Position, state: dict[str, Any]) -> Path:
        partial = self.folder / f".{self._course}.partial"
        try:
            with partial.open("wb") as file:
                torch.save(state, file)
            name = f"{self._course}-{position.epoch:06d}-{position.batch:09d}-{digest_artifact(partial)[:16]}.ckpt"
            return partial.rename(self.folder / name)
        except (OSError, RuntimeError) as error:
            raise StorageError(
                f"a checkpoint cannot be written to {self.folder} ({_reason(error)}). Earlier ones are as they were: "
                "make room and run the command again, or name another place with --checkpoints."
            ) from error
        finally:
            remove(partial)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        intact = _is_intact(path)
        if not intact and self._store is not None and name in self._stored:
            self._store.get(path)
            intact = _is_intact(path)
        if not intact:
            raise ArtifactError(f"{path}: damaged checkpoint (its SHA-256 is not the one in its name).")
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (EOFError, KeyError, OSError, RuntimeError, ValueError, UnpicklingError) as error:
            raise ArtifactError(f"{path}: unreadable checkpoint ({' '.join(str(error).split())}).") from error
        return state

    def _drop(self, names: Iterable[str]) -> None:
        """Removes states; one that the store does not let go of is no reason to end a training."""
        for name in names:
            remove(self.folder / name)
            if self._store is None or name not in self._stored:
                continue
            try:
                self._store.drop(name)
                self._stored.remove(name)
            except StorageError as error:
                logger.warning("an old checkpoint cannot be removed: %s", error)


def open_round(context: Context, number: int = 0) -> Checkpoints | None:
    """The checkpoints of one of the trainings of a run; None in all processes but the first.

    Args:
        context: where they lie. If nothing is to be resumed, round 0 removes what all rounds have left.
        number: of the round, from 0. The states of the rounds before it stay: they are needed to resume it.

    Raises:
        StorageError: the folder or the store cannot be written.
    """
    if not context.launch.is_first:
        return None
    if not context.resume and number == 0:
        remove(context.checkpoints)
    resume = context.resume or number > 0
    return Checkpoints(context.checkpoints, resume=resume, store=context.checkpoint_store, course=f"round{number}")


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


def _reason(error: BaseException) -> str:
    """Why a file cannot be written; torch's own error at the end of it hides that of the disk before."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if error.__context__ is None else _reason(error.__context__)


def _is_intact(path: Path) -> bool:
    """Whether the file is there and has the digest that its name says."""
    match = NAME.fullmatch(path.name)
    return match is not None and path.is_file() and digest_artifact(path).startswith(match["digest"])
