"""Parameters of a class map: from which strategy to which mask. What a recipe can say is read from these fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ctm.stage import Config

__all__ = ["MapConfig", "StrategyName"]

StrategyName = Literal["attention", "relevance", "cam", "fused", "gradcam"]
"""Ways to read class maps; ``ctm.pseudomasks.strategies`` has the function of each."""


class MapConfig(Config):
    """How a class map is read from the classifier and turned into a mask."""

    strategy: StrategyName = "relevance"
    """attention: the paper's sum of class-token attention; relevance: attention times the gradient of the class's
    logit (Chefer et al. 2021); cam: the patch head's scores (needs model.patch_head); fused: attention times cam
    (MCTformer); gradcam: patch tokens weighted by the gradient of the class's logit."""

    blocks: Annotated[int, Field(ge=1)] | None = None
    """How many of the last blocks strategy and affinity read; null: all. Attention always reads all, cam the last one's
    output."""

    rows: Literal["all", "own"] = "all"
    """Relevance: attention of which class tokens is summed: of all, or of the class's own alone."""

    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """Sizes at which the images are read, as fractions of model.image_size; the maps are averaged."""

    flip: bool = False
    """Reads the mirrored images, too."""

    refinement: Literal["none", "affinity", "pamr", "affinity+pamr"] = "none"
    """affinity: one step of propagation along the patch-to-patch attention, which helps pretrained backbones and ruins
    those trained from scratch; pamr: pixels that look alike get alike scores (Araslanov and Roth 2020)."""

    assignment: Literal["paper", "argmax"] = "argmax"
    """paper: pixels above the map's mean, painted in ascending probability; argmax: the largest map scaled to sum 1."""
