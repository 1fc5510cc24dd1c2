"""A stage of the pipeline, defined once: what it reads, what it writes, what it needs. Everything else is derived."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["Config", "Kind", "Metrics", "Output", "Parts", "Profile", "Ref", "Source", "Stage"]

Metrics = dict[str, Any]
"""Nested dictionary of numbers, written as ``metrics/<stage>.json``."""


class Config(BaseModel):
    """Base of every parameter section: unknown names fail, values are immutable, field docstrings are the help.

    Types are lax, not strict: Kubeflow sends the integer 224 as 224.0, which is accepted, while 224.5 still fails.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Kind(StrEnum):
    """What an output is (dataset, model, report or confusion); Kubeflow makes a typed artifact of it."""

    DATASET = "dataset"
    MODEL = "model"
    REPORT = "report"
    CONFUSION = "confusion"
    """A JSON file with ``classes`` and ``rows``, the counts of a confusion matrix, one row for each true class."""


class Profile(StrEnum):
    """What a stage needs, never where it runs."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True)
class Source:
    """An input from outside the pipeline: the path or URI in parameter ``param``, such as ``dataset.root``.

    The stage gets it as a ``ctm.runtime.storage.Tree``.
    """

    param: str


@dataclass(frozen=True)
class Ref:
    """An input that is the output ``port`` of another stage."""

    stage: str
    port: str


@dataclass(frozen=True)
class Parts:
    """An input that is the output ``port`` of every part of a divisible stage: paths in the order of the parts."""

    stage: str
    port: str


@dataclass(frozen=True)
class Output:
    """A file or folder that a stage writes whole or not at all."""

    kind: Kind
    path: str
    plots: Mapping[str, Mapping[str, Any]] | None = None
    """Files inside the output that can be plotted, with the plot's axes (``{"history.csv": {"x": ..., "y": ...}}``)."""


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: a verb phrase in snake case; also the name of the section in params.yaml and of the command.
        summary: one sentence for the command's help and the pipeline's pages.
        config: its fields are the sections of params.yaml that the stage may read, and no others.
        run: ``run(config, context, *, <inputs>, <outputs>)``; its keyword names are the port names.
        inputs: where each input comes from.
        outputs: what is written.
        profile: what the stage needs.
        divisible: whether the stage can run in parts (``context.part``) that a stage with a ``Parts`` input joins.
        distributed: whether the stage can run as several processes (``context.launch``), of which the first writes.
        shown: metrics, such as ``segmenter.val.miou``, that the screen shows at the end, where there are any.
        resumable: whether the stage keeps its state in ``context.checkpoints``, so that a run that was ended goes on.
    """

    name: str
    summary: str
    config: type[Config]
    run: Callable[..., Metrics]
    inputs: Mapping[str, Source | Ref | Parts]
    outputs: Mapping[str, Output]
    profile: Profile
    shown: tuple[str, ...] = ()
    divisible: bool = False
    distributed: bool = False
    resumable: bool = False

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.run).parameters.values()
        keywords = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        ports = [*self.inputs, *self.outputs]
        if keywords != ports:
            raise TypeError(f"stage {self.name!r}: run() takes {keywords}, but the ports are {ports}")

    @property
    def command(self) -> str:
        """The stage's name on the command line, such as ``train-classifier``."""
        return self.name.replace("_", "-")

    @property
    def metrics(self) -> Path:
        """Where the stage's metrics are written in a working tree."""
        return Path("metrics") / f"{self.name}.json"
