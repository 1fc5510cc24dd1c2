"""Checkpoints of an unfinished training, outside the stage's outputs."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from ctm.errors import ArtifactError
from ctm.runtime.outputs import staged_outputs

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Checkpoints"]


class Checkpoints:
    """The last and the best state of one run, each replaced whole.

    Args:
        folder: belongs to this very run (its name is the run's fingerprint), so whatever lies there fits.
        resume: read what an interrupted run left; otherwise start anew.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        self.folder = folder
        self.resume = resume

    def save(self, fabric: Fabric, name: str, state: dict[str, Any]) -> None:
        """Writes the state ``name`` (``last`` or ``best``)."""
        with staged_outputs({"state": self.folder / f"{name}.ckpt"}) as staged:
            fabric.save(staged["state"], state)

    def load(self, fabric: Fabric, name: str, state: dict[str, Any]) -> bool:
        """Restores the state ``name`` into the objects of ``state`` in place; False if there is none.

        Raises:
            ArtifactError: the file is damaged.
        """
        path = self.folder / f"{name}.ckpt"
        if not path.is_file():
            return False
        try:
            fabric.load(path, state, weights_only=True)
        except (EOFError, KeyError, OSError, RuntimeError, ValueError, UnpicklingError) as error:
            raise ArtifactError(
                f"{path}: damaged checkpoint ({type(error).__name__}). Remove it, or start anew with --resume never."
            ) from error
        return True
