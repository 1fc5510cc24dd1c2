"""Parameters of the pseudo-mask extraction: which class maps are read, and how they become masks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ctm.stage import Config

__all__ = ["ExtractConfig", "MapConfig"]


class MapConfig(Config):
    """How a class map is read from the classifier and turned into a mask."""

    strategy: Literal["attention", "relevance"] = "relevance"
    """attention: the paper's sum of class-token attention; relevance: attention times the gradient of the class's
    logit (Chefer et al. 2021)."""

    blocks: Annotated[int, Field(ge=1)] | None = None
    """How many of the last blocks relevance and affinity read; null: all. Attention always reads all."""

    refinement: Literal["none", "affinity"] = "none"
    """affinity: one step of propagation along the patch-to-patch attention. It helps pretrained backbones and ruins
    those trained from scratch."""

    assignment: Literal["paper", "argmax"] = "argmax"
    """paper: pixels above the map's mean, painted in ascending probability; argmax: the largest map scaled to sum 1."""


class ExtractConfig(MapConfig):
    """How the pseudo-masks of a data set are extracted."""

    label_source: Literal["image", "predicted"] = "image"
    """Which classes an image's mask may hold: its image-level labels, or those that the classifier predicts."""

    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Probability above which a class counts as predicted (0..1)."""

    fill: Literal["nearest", "background", "ignore"] = "nearest"
    """What a pixel gets that no class takes: the nearest painted class, the background class, or ignore (255)."""

    background_threshold: Annotated[float, Field(ge=0, le=1)] = 0.3
    """With argmax and fill background: a pixel whose maps, each scaled to maximum 1, all lie below is background."""

    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images per forward pass."""

    splits: Annotated[tuple[Literal["train", "val"], ...], Field(min_length=1)] = ("train", "val")
    """Splits that pseudo-masks are written for; the segmenter needs train."""
