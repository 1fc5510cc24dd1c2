"""``ctm demo-data`` and ``ctm demo-scene``: the embedded data set, and a large scene of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo_data", "demo_scene"]


def demo_data(
    folder: Annotated[Path, typer.Argument(help="Folder to write; a complete copy there is left as it is.")],
) -> None:
    """Write the demo data set: multispectral land-cover scenes as GeoTIFFs in the DFC2020 layout."""
    from ctm.data.datasets.demo import write_demo

    write_demo(folder)
    typer.echo(f"{folder} holds the demo data set")


def demo_scene(file: Annotated[Path, typer.Argument(help="GeoTIFF to write, 1024 x 1024 pixels of 15 bands.")]) -> None:
    """Write one large scene of the demo's land cover, to try `ctm predict` on."""
    from ctm.data.datasets.demo import write_demo_scene

    write_demo_scene(file)
    typer.echo(f"wrote {file}")
