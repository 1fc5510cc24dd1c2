"""``ctm-pipeline check``: faults of a compiled package, found before a cluster finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.errors import PipelineError
from pipelines.options import AllowTags

__all__ = ["check"]


def check(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A compiled pipeline or component.")],
    allow_tags: AllowTags = False,
) -> None:
    """Find what a compiled pipeline has wrong and Kubeflow would only notice in the middle of a run."""
    from pipelines.check import check_package

    if problems := check_package(file.read_text("utf-8", errors="replace"), allow_tags=allow_tags):
        raise PipelineError("\n".join([f"{file} is not in order:", *problems]))
    typer.echo(f"{file} is in order")
