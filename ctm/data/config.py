"""Parameters of the raw data set and of its shards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ctm.stage import Config

__all__ = ["AugmentConfig", "DatasetConfig", "PreprocessConfig"]


class DatasetConfig(Config):
    """Which raw data set is read, and how."""

    format: Literal["folder", "dfc2020", "endotect", "ade20k", "voc2012", "coco2014"]
    """Layout of the raw data on disk."""

    root: str
    """Folder of the raw data."""

    classes: tuple[str, ...] | None = None
    """Class names in the order of the mask values; null: as the data set says (folder: its classes.txt)."""

    background: str | None = None
    """Name of the class that has no class token and is no image-level label; null: every class has a token."""

    channels: Annotated[int, Field(ge=1)] | None = None
    """Number of image channels; null: as the first image of the data set has."""

    min_label_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A class read from a mask is an image-level label if it covers at least this fraction of the pixels (0..1) and at
    least one pixel. Not used where labels are given (folder)."""

    normalise: Literal["none", "imagenet", "statistics"] = "statistics"
    """Standardisation of the scaled channels: none, ImageNet's RGB mean and deviation, or the train split's own."""


class PreprocessConfig(Config):
    """How the shards are written."""

    shard_mb: Annotated[int, Field(ge=1)] = 256
    """Size of a shard file in megabytes; a shard is closed by the sample that reaches it."""


class AugmentConfig(Config):
    """Random geometric changes of training images, the same for image and mask."""

    flip: Literal["none", "horizontal", "dihedral"] = "horizontal"
    """Lossless flips: none, left-right, or (seen from above) left-right, up-down and transposition of square images."""

    min_crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest side of a random crop as a fraction of the image's sides (0..1]; 1 means no cropping. The crop keeps the
    image's aspect ratio and is resized to the image size."""
