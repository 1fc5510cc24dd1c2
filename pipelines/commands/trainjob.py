"""``ctm-pipeline trainjob``: a stage as a TrainJob of Kubeflow Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctm.commands.options import Overrides, ParamsFile
from ctm.params import load_params
from pipelines.errors import PipelineError
from pipelines.options import AllowTags, ProfilesFile, Raw

__all__ = ["trainjob"]


def trainjob(
    stage: Annotated[str, typer.Argument(help="The stage, such as train-classifier.")],
    image: Annotated[str, typer.Option("--image", metavar="REF", help="Image by digest.")],
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    raw: Raw = None,
    profiles: ProfilesFile = None,
    allow_tags: AllowTags = False,
) -> None:
    """Print a stage as a TrainJob of Kubeflow Trainer v2, for several processes or nodes."""
    from pipelines.images import check_image
    from pipelines.profiles import load_trainjob
    from pipelines.trainjob import make_trainjob, stage_named, trainjob_text

    chosen = stage_named(stage)
    if problem := check_image(image, allow_tags=allow_tags):
        raise PipelineError(f"--image {image}: {problem} (--allow-tags).")
    loaded = load_params(params, overrides)
    job = make_trainjob(chosen, loaded, load_trainjob(profiles), image=image, raw=raw)
    typer.echo(trainjob_text(chosen, job), nl=False)
