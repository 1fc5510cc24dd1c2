"""Parameters of the evaluation and its report."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from ctm.errors import ParamsError
from ctm.evaluation.recipes import BASELINES, parse_recipe
from ctm.stage import Config

__all__ = ["EvaluateConfig"]


class EvaluateConfig(Config):
    """What is scored beside the run's own pseudo-masks, and how much of it is shown."""

    compare: tuple[str, ...] = ("random", "attention", "relevance")
    """Pseudo-masks to score on the train split for comparison: `random` (a random class among those present),
    `spectral` (a classifier of single pixels), or a recipe `strategy[+assignment][+refinement]` such as `attention`,
    `attention+argmax` or `relevance+affinity`. A strategy alone takes its natural assignment and no refinement."""

    panels: Annotated[int, Field(ge=0)] = 8
    """Number of samples shown as pictures in the report."""

    batch_size: Annotated[int, Field(ge=1)] = 16
    """Number of images that are scored together."""

    @field_validator("compare")
    @classmethod
    def _readable(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        """Refuses a misspelt entry when the parameters are read, not after hours of training."""
        for entry in entries:
            if entry not in BASELINES:
                try:
                    parse_recipe(entry, blocks=None)
                except ParamsError as error:
                    raise ValueError(str(error)) from None
        return entries
