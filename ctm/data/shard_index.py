"""What ``index.json`` says of a shard folder: its files, counts, classes and the scale of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ctm.data.inputs import PixelValues
from ctm.stage import Config

__all__ = ["INDEX", "SAFE_KEY", "ShardFile", "ShardIndex", "SplitIndex", "write_index"]

INDEX = "index.json"
SAFE_KEY = r"[A-Za-z0-9_-]+"
"""What keys are made of: they become file names."""


class ShardFile(Config):
    """A file of a shard folder."""

    file: Annotated[str, Field(pattern=rf"^{SAFE_KEY}\.(tar|jsonl)$")]
    """Name in the folder; never a path out of it."""
    samples: int
    """Samples in the file."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Digest of the file."""


class SplitIndex(Config):
    """The files and counts of one split."""

    samples: int
    """Samples in all shards."""
    labels: dict[str, int]
    """How many samples carry each image-level label, by class name."""
    records: ShardFile
    """The JSON lines, one a sample."""
    shards: tuple[ShardFile, ...]
    """The tar files, in order."""


class ShardIndex(Config):
    """Contents of ``index.json``."""

    format: Literal[1] = 1
    """Version of this layout."""
    kind: Literal["images", "masks"]
    """Images with their labels, or masks made for the images of another folder."""
    classes: tuple[str, ...]
    """Class names in the order of the mask values."""
    background: int | None
    """Mask value that has no class token."""
    channels: int = 1
    """Channels of the images; 1 for masks."""
    values: PixelValues | None = None
    """What the pixel values are; None for masks, and for images of an older ctm."""
    scale: float = 1.0
    """Multiplier that brings stored values to about [0, 1]; 1 for masks."""
    normalise: Literal["none", "imagenet", "statistics"] = "none"
    """Where mean and deviation come from."""
    mean: tuple[float, ...] | None = None
    """Mean of each scaled channel."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each scaled channel."""
    splits: dict[Annotated[str, Field(pattern=rf"^{SAFE_KEY}$")], SplitIndex]
    """The splits by name."""
    tune: tuple[str, ...] = ()
    """Keys of train samples by whose masks settings were chosen, ascending; for masks always empty."""
    about: dict[str, Any] = Field(default_factory=dict)
    """Whatever the writer records of how the contents came about (for pseudo-masks: strategy, label source)."""


def write_index(folder: Path, index: ShardIndex) -> None:
    """Completes a shard folder: writes ``index.json`` after everything that it speaks of."""
    (folder / INDEX).write_text(index.model_dump_json(indent=2) + "\n", encoding="utf-8")
