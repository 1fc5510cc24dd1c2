"""The errors that ctm raises for mistakes a user can mend: each says what, where, and what to do."""

from __future__ import annotations

__all__ = ["ArtifactError", "CtmError", "DataError", "ModelError", "ParamsError", "ProcessError", "StorageError"]


class CtmError(Exception):
    """Base of every error that the command line shows as one message instead of a traceback."""


class ParamsError(CtmError):
    """A parameter is unknown, of the wrong type, or contradicts another."""


class DataError(CtmError):
    """Raw data are missing, unreadable or inconsistent."""


class StorageError(CtmError):
    """The place where data lie cannot be reached or refuses access; the data themselves may be in order."""


class ArtifactError(CtmError):
    """The output of an earlier stage is missing, damaged, or does not belong to the other inputs."""


class ModelError(CtmError):
    """A model cannot be built, trained, pruned or loaded as asked."""


class ProcessError(CtmError):
    """One of the processes of a run has ended before the others."""
