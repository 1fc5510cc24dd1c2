"""The folder that masks are written to: new, or one whose masks were made the same way and are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import ctm
from ctm.errors import ArtifactError
from ctm.predict.images import ImageFile
from ctm.runtime.outputs import check_new_folder, partial_path, remove, write_text

__all__ = ["RECORD", "open_mask_folder"]

RECORD = ".ctm-predict.json"
"""The file in the folder that says how its masks were made."""


def open_mask_folder(
    folder: Path, images: Sequence[ImageFile], *, made_by: Mapping[str, str | int | None]
) -> Sequence[ImageFile]:
    """Makes the folder, or holds one that was begun against what is to be written to it.

    Args:
        folder: where the masks go.
        images: all that get one.
        made_by: what the masks depend on, beside the images and the version of ctm.

    Returns:
        The images that have no mask there yet, or one that is older than they are.

    Raises:
        ArtifactError: the folder holds other files, or masks that were made otherwise.
    """
    record, about = folder / RECORD, {**made_by, "ctm": ctm.__version__}
    if not record.is_file():
        remove(partial_path(record))  # left by a run that was killed
        check_new_folder(folder)
        write_text(record, json.dumps(about) + "\n")
        return images
    _check_same(record, about)
    masks = {image: folder / image.mask_name for image in images}
    known = {record, *masks.values(), *map(partial_path, masks.values())}
    if others := sorted(path.name for path in folder.iterdir() if path not in known):
        raise ArtifactError(
            f"{folder} holds {others[0]}, which is no mask of these images; name a new folder, or all images of before"
        )
    return [image for image, mask in masks.items() if not _is_newer(mask, image.path)]


def _check_same(record: Path, about: Mapping[str, str | int | None]) -> None:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        differing = [name for name, value in about.items() if found[name] != value]
    except (KeyError, TypeError, ValueError):
        differing = [*about]
    if differing:
        words = {"model": "model", "tile": "--tile", "ctm": "version of ctm"}
        by = " and ".join(words.get(name, name) for name in differing)
        raise ArtifactError(f"{record.parent} holds masks made with another {by}; name a new folder")


def _is_newer(mask: Path, image: Path) -> bool:
    return mask.is_file() and mask.stat().st_mtime_ns >= image.stat().st_mtime_ns
