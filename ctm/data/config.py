"""Parameters of the raw data set and of its shards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ctm.stage import Config

__all__ = ["AugmentConfig", "DatasetConfig", "Format", "PreprocessConfig"]


Format = Literal["folder", "dfc2020", "endotect", "ade20k", "voc2012", "coco2014"]
"""The layouts of raw data that there are readers for."""

OPTIONS: dict[str, tuple[Format, ...]] = {
    "scale": ("folder",),
    "scaling": ("dfc2020",),
    "labels_from": ("voc2012", "coco2014"),
    "train_list": ("voc2012",),
    "mask_encoding": ("coco2014",),
    "zero_label": ("ade20k",),
    "folds": ("endotect",),
}
"""Parameters that only some formats know."""


class DatasetConfig(Config):
    """Which raw data set is read, and how. The last ones are for single formats and null for all others."""

    format: Format
    """Layout of the raw data on disk."""

    root: str
    """Where the raw data lie: a folder, or s3://bucket/prefix."""

    classes: tuple[str, ...] | None = None
    """Class names in the order of the mask values; null: as the data set says (folder: its classes.txt). With endotect,
    images of other classes are left out."""

    background: str | None = None
    """Name of the class that has no class token and is no image-level label; null: every class has a token."""

    channels: Annotated[int, Field(ge=1)] | None = None
    """Number of image channels; null: as the first image of the data set has."""

    min_label_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A class read from a mask is an image-level label if it covers at least this fraction of the pixels and at
    least one pixel. Not used where labels are given (folder, endotect, annotations)."""

    normalise: Literal["none", "imagenet", "statistics"] = "statistics"
    """Standardisation of the scaled channels: none, ImageNet's RGB mean and deviation, or the train split's own."""

    scale: Annotated[float, Field(gt=0)] | None = None
    """folder: multiplier that brings stored pixel values to about [0, 1]; null: 1/255 for 8 bits, 1 for all else."""

    scaling: Literal["fixed", "image_max"] | None = None
    """dfc2020: divide by the fixed range of each sensor (null: this), or, as the paper's release does, by each image's
    own maximum."""

    labels_from: Literal["masks", "annotations"] | None = None
    """voc2012: image-level labels from the masks (null: this) or from the XML's objects. coco2014: labels and truth
    from the instances JSON (annotations; null: this), or from SegmentationClass masks."""

    train_list: Literal["train_aug", "train"] | None = None
    """voc2012: which list is the train split; null: train_aug, the usual 10,582 images with SBD."""

    mask_encoding: Literal["contiguous", "category_id"] | None = None
    """coco2014 with masks: values 0..80, or COCO's category ids 0..90; null: recognised from the masks."""

    zero_label: Literal["class", "ignore"] | None = None
    """ade20k, where it must be chosen: mask value 0 is a class of its own (151 classes, as the paper), or is ignored
    and value k becomes class k-1 (150 classes, the benchmark's reduce_zero_label)."""

    folds: Literal[2, 5] | None = None
    """endotect: val is fold 0 of the official 2-fold or 5-fold split; null: 30 % of the images, by a hash of the
    name."""

    @model_validator(mode="after")
    def _options_fit_format(self) -> DatasetConfig:
        for name, formats in OPTIONS.items():
            if getattr(self, name) is not None and self.format not in formats:
                raise ValueError(
                    f"dataset.{name} is an option of format {' and '.join(formats)}, not of {self.format}: "
                    "set it to null"
                )
        return self


class PreprocessConfig(Config):
    """How the shards are written."""

    shard_mb: Annotated[int, Field(ge=1)] = 256
    """Size of a shard file in megabytes; a shard is closed by the sample that reaches it."""

    on_error: Literal["fail", "skip"] = "fail"
    """What an unreadable or inconsistent file does: end the run and be named, or be left out, counted and listed in the
    manifest."""


class AugmentConfig(Config):
    """Random geometric changes of training images, the same for image and mask."""

    flip: Literal["none", "horizontal", "dihedral"] = "horizontal"
    """Lossless flips: none, left-right, or (seen from above) left-right, up-down and transposition of square images."""

    min_crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest side of a random crop as a fraction of the image's sides; 1 means no cropping. The crop keeps the
    image's aspect ratio and is resized to the image size."""
