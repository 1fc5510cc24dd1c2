"""``ctm-pipeline record``: model and metrics of a finished run, brought into the working tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.options import Host, Namespace

__all__ = ["record"]


def record(
    host: Host,
    run: Annotated[str, typer.Option("--run", metavar="ID", help="The run, as submit has printed it.")],
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="Folder to write.")] = Path("models"),
    namespace: Namespace = None,
    root: Annotated[
        str | None,
        typer.Option(
            "--pipeline-root", metavar="URI", help="Where the server keeps artifacts; left out: as the run says."
        ),
    ] = None,
) -> None:
    """Bring model and metrics of a finished run into the working tree, and show how they differ from main."""
    from pipelines.record import comparison, fetch, find_run, track
    from pipelines.server import Server

    found = find_run(Server(host, namespace), run)
    written = fetch(found, into, root=root)
    files = " ".join(map(str, track(written)))
    typer.echo(f"recorded {found.display_name or found.run_id}\n")
    typer.echo("\n".join(comparison(written.metrics)))
    typer.echo(f"\nto keep it: dvc push {written.model}.dvc && git add {files} && git commit")
