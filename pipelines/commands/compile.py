"""``ctm-pipeline compile``: the committed definitions of Kubeflow, written from the stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctm.commands.options import ParamsFile
from ctm.params import load_params
from ctm.runtime.outputs import write_text
from pipelines.errors import PipelineError

__all__ = ["compile_files"]


def compile_files(
    params: ParamsFile = Path("params.yaml"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if a file is not up to date.")] = False,
) -> None:
    """Write pipelines/*.yaml and components/*.yaml from the stages."""
    from pipelines.build import generated_files

    files = generated_files(load_params(params))
    stale = {path: text for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text}
    if check and stale:
        names = ", ".join(map(str, stale))
        raise PipelineError(f"not what the stages say: {names}. Run `make pipeline` and commit the result.")
    for path, text in stale.items():
        write_text(path, text)
        typer.echo(f"wrote {path}")
    typer.echo(f"{len(files)} files are up to date")
