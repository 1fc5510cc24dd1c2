"""Options that several commands of Kubeflow's have; those of params.yaml are the ones of ``ctm``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "AllowTags",
    "Experiment",
    "Host",
    "Namespace",
    "Parts",
    "Pipeline",
    "PipelineName",
    "ProfilesFile",
    "Raw",
]

PipelineName = Literal["ctm", "ctm_fanout", "ctm_sweep"]

Pipeline = Annotated[PipelineName, typer.Option("--pipeline", help="Which pipeline.")]
Parts = Annotated[
    int | None,
    typer.Option("--parts", min=1, metavar="N", help="ctm_fanout: parts that run side by side; left out: 4."),
]
ProfilesFile = Annotated[
    Path | None, typer.Option("--profiles", metavar="FILE", help="File of profiles instead of the one of ctm.")
]
AllowTags = Annotated[bool, typer.Option("--allow-tags", help="Also with images that are named by tag.")]
Raw = Annotated[
    str | None,
    typer.Option(
        "--raw",
        metavar="URI",
        help="Raw data as pods reach them: s3://bucket/prefix or a mounted path; left out: dataset.root.",
    ),
]
Host = Annotated[
    str,
    typer.Option("--host", metavar="URL", envvar="KF_PIPELINES_ENDPOINT", help="Address of Kubeflow Pipelines."),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", metavar="NAME", envvar="KUBEFLOW_NAMESPACE", help="Namespace, where the server serves several."
    ),
]
Experiment = Annotated[str, typer.Option("--experiment", metavar="NAME", help="Experiment that the run belongs to.")]
