"""``ctm demo-data``: the embedded data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo_data"]


def demo_data(
    folder: Annotated[Path, typer.Argument(help="Folder to write; a complete copy there is left as it is.")],
) -> None:
    """Write the demo data set: multispectral land-cover scenes as GeoTIFFs in the DFC2020 layout."""
    from ctm.data.datasets.demo import write_demo

    write_demo(folder)
