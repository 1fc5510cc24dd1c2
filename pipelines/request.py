"""What a caller wants to run on Kubeflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["LAMBDA", "LAMBDAS", "PipelineName", "Request"]

PipelineName = Literal["ctm", "ctm_fanout", "ctm_sweep"]

LAMBDA, LAMBDAS = "train_classifier.pruning_weight", ("0", "0.001", "0.01", "0.1")
"""The paper's Table 8: lambda, the weight of the head gates, and its values."""


@dataclass(frozen=True)
class Request:
    """A run that is asked for.

    Attributes:
        params: the parameter file.
        overrides: ``--set`` options.
        images: ``--image`` options.
        pipeline: which pipeline.
        profile: the cluster's profile.
        profiles: the file of profiles; None: the one that comes with ctm.
        raw: where the pods read the raw data; None: ``dataset.root``.
        raw_hash: what names the contents of the raw data; None: found out.
        checkpoints: where unfinished runs keep their state; None: as the profile says.
        run_name: None: made from data, revision and time.
        runs: what each run of a sweep changes; none: as the pipeline says.
        parts: in how many parts a divisible stage runs; None: as the pipeline says.
        allow_dirty: also with changes that git does not hold.
        allow_unpushed: also with raw data that DVC's remote does not hold.
        allow_tags: also with images that are named by tag.
        cache: whether a task may be served from the cache.
        scheduled: the run will be repeated, on data that are not known yet.
    """

    params: Path = Path("params.yaml")
    overrides: Sequence[str] = ()
    images: Sequence[str] = ()
    pipeline: PipelineName = "ctm"
    profile: str = "nvidia"
    profiles: Path | None = None
    raw: str | None = None
    raw_hash: str | None = None
    checkpoints: str | None = None
    run_name: str | None = None
    parts: int | None = None
    runs: Sequence[str] = ()
    allow_dirty: bool = False
    allow_unpushed: bool = False
    allow_tags: bool = False
    cache: bool = True
    scheduled: bool = False
