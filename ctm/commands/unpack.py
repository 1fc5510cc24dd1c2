"""``ctm unpack``: the masks of an artifact as files to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctm.data.unpack import MaskFormat

__all__ = ["unpack"]


def unpack(
    artifact: Annotated[Path, typer.Argument(help="Folder of shards or of pseudo-masks.")],
    folder: Annotated[Path, typer.Argument(help="New folder for the files.")],
    format: Annotated[
        MaskFormat,
        typer.Option("--format", help="png: palette images; geotiff: with the images' CRS and transform."),
    ] = "png",
) -> None:
    """Write every mask of an artifact as a file that any viewer shows, or that any GIS puts in its place."""
    from ctm.data.unpack import write_masks

    typer.echo(f"wrote {write_masks(artifact, folder, format=format)} masks to {folder}")
