"""``ctm init``: params.yaml from a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctm.commands.options import Overrides
from ctm.errors import ParamsError
from ctm.params import load_preset, preset_names, to_yaml
from ctm.runtime.outputs import write_text

__all__ = ["complete_preset", "init"]


def complete_preset(incomplete: str) -> list[str]:
    """Presets whose names begin so, for the shell."""
    return [name for name in preset_names() if name.startswith(incomplete)]


def init(
    preset: Annotated[str, typer.Argument(help=f"One of {', '.join(preset_names())}.", autocompletion=complete_preset)],
    overrides: Overrides = [],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="File to write.")] = Path("params.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
) -> None:
    """Write params.yaml from a preset, every value with its meaning."""
    params = load_preset(preset, overrides)
    if output.exists() and not force:
        raise ParamsError(f"{output} exists. Give --force to replace it, or --output to write elsewhere.")
    write_text(output, to_yaml(params))
    typer.echo(f"wrote {output} from preset {preset}")
