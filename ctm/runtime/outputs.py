"""Outputs that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ctm.errors import ArtifactError
from ctm.runtime.preemption import preemption_deferred

__all__ = ["check_new_folder", "check_no_folder", "partial_path", "remove", "staged_outputs", "write_text"]


@contextmanager
def staged_outputs(outputs: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Gives a hidden path beside each output and moves all of them in when the block ends without an error.

    What an earlier, killed run left at the hidden paths is removed first. After an error the hidden paths are removed
    and the outputs are as they were before.
    """
    partial = {name: partial_path(path) for name, path in outputs.items()}
    for path in partial.values():
        remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        for path in partial.values():
            path.lstat()  # one that was not written is an error before anything is moved
        with preemption_deferred(patient=True):
            for name, path in outputs.items():
                replace(partial[name], path)
    finally:
        for path in partial.values():
            remove(path)


def partial_path(path: Path) -> Path:
    """Where an output lies as long as it is being written."""
    return path.with_name(f".{path.name}.partial")


def check_new_folder(folder: Path) -> None:
    """Checks that a folder which is to be filled is not there yet, or is empty.

    Raises:
        ArtifactError: it holds something, or is a file.
    """
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise ArtifactError(f"{folder} exists and is no empty folder; name a new one, masks never replace files")


def check_no_folder(*files: Path) -> None:
    """Checks that no folder is where a file is to be written.

    Raises:
        ArtifactError: there is one.
    """
    for path in files:
        if path.is_dir():
            raise ArtifactError(f"{path} is a folder, which a file would replace: name a file.")


def replace(source: Path, target: Path) -> None:
    """Moves ``source`` (file or folder) to ``target`` on the same file system, whatever is there before."""
    old = target.with_name(f".{target.name}.old")
    remove(old)  # left by a run that was killed in here
    if target.is_dir():
        target.rename(old)
        try:
            source.rename(target)
        except BaseException:
            old.rename(target)
            raise
        remove(old)
    else:
        os.replace(source, target)


def remove(path: Path) -> None:
    """Removes a file or a folder; nothing happens if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all.

    Raises:
        ArtifactError: there is a folder in its place.
    """
    check_no_folder(path)
    with staged_outputs({"file": path}) as staged:
        staged["file"].write_text(text, encoding="utf-8")
