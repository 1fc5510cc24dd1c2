"""Parameters of the evaluation, its report, and the gate behind it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from ctm.errors import ParamsError
from ctm.pseudomasks.recipes import parse_recipe
from ctm.stage import Config

__all__ = ["BASELINES", "EvaluateConfig", "QualityGateConfig"]

BASELINES = ("random", "spectral")
"""Entries of `evaluate.compare` that need no class map."""


class QualityGateConfig(Config):
    """How good a run must be for `ctm gate` to let it through; no stage reads it, so a change runs nothing again."""

    metric: Annotated[str, Field(min_length=1)] = "segmenter.val.miou"
    """The figure of metrics/evaluate.json that decides; higher is better."""

    minimum: Annotated[float, Field(ge=0, le=1)] | None = None
    """The least that it must be; null: anything will do."""

    max_drop: Annotated[float, Field(ge=0, le=1)] | None = None
    """How much lower than the baseline's (in CI: that of main) it may be; null: any drop will do."""


class EvaluateConfig(Config):
    """What is scored beside the run's own pseudo-masks, and how much of it is shown."""

    compare: tuple[str, ...] = ("random", "attention", "relevance")
    """Pseudo-masks to score on the train split for comparison: `random` (a random class among those present),
    `spectral` (a classifier of single pixels), or a recipe `strategy[+assignment][+refinement]` such as `attention`,
    `attention+argmax` or `relevance+affinity+pamr`. A strategy alone takes its natural assignment and no refinement."""

    panels: Annotated[int, Field(ge=0)] = 8
    """Number of samples shown as pictures in the report."""

    batch_size: Annotated[int, Field(ge=1)] = 16
    """Number of images that are scored together."""

    gate: Annotated[QualityGateConfig, Field(exclude=True)] = QualityGateConfig()

    @field_validator("compare")
    @classmethod
    def _readable(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        """Refuses a misspelt entry when the parameters are read, not after hours of training."""
        for entry in entries:
            if entry not in BASELINES:
                try:
                    parse_recipe(entry)
                except ParamsError as error:
                    raise ValueError(f"{error} Baselines: {', '.join(BASELINES)}.") from None
        return entries
