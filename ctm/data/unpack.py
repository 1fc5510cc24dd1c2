"""Turns the masks of a shard folder into palette PNG files that a person can look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctm.data.shards import TRUTH, ShardFolder
from ctm.errors import ArtifactError

__all__ = ["write_palette_pngs"]


MEMBERS = {"images": TRUTH, "masks": "png"}
"""Which member of a sample is its mask, by kind of shards."""


def write_palette_pngs(artifact: Path, folder: Path) -> int:
    """Writes ``folder/<split>/<key>.png`` for every sample that has a mask.

    Args:
        artifact: a shard folder: images with truth, or pseudo-masks.
        folder: where the files go.

    Returns:
        The number of files written.

    Raises:
        ArtifactError: the artifact is missing or damaged, or none of its samples has a mask.
    """
    shards = ShardFolder.open(artifact)
    member = MEMBERS[shards.index.kind]
    palette = shards.classes.palette()
    count = 0
    for name in shards.splits:
        split = shards.split(name)
        for index, key in enumerate(split.keys):
            if split.has(index, member):
                _write(folder / name / f"{key}.png", split.mask(index, member), palette)
                count += 1
    if count == 0:
        raise ArtifactError(f"no sample of {artifact} has a mask; its raw data came without any")
    return count


def _write(path: Path, mask: NDArray[np.uint8], palette: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    image.putpalette(palette.tobytes())
    image.save(path)
