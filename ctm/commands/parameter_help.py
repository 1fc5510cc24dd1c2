"""The parameters that a command reads, as panels below its options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from typer.core import TyperCommand

from ctm.parameters import Parameter, parameters
from ctm.stage import Stage

__all__ = ["command_with", "gate_parameters", "stage_parameters"]


def command_with(listed: Callable[[], Iterable[Parameter]]) -> type[TyperCommand]:
    """The class of a command whose ``--help`` lists parameters."""

    class Command(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            _print_panels(listed())

    return Command


def stage_parameters(stage: Stage) -> list[Parameter]:
    """The parameters that a stage reads."""
    sections = stage.config.model_fields
    return [known for known in parameters() if known.of_stages and known.path.split(".")[0] in sections]


def gate_parameters() -> list[Parameter]:
    """The parameters that ``ctm gate`` reads."""
    return [known for known in parameters() if known.section == "evaluate.gate"]


def _print_panels(listed: Iterable[Parameter]) -> None:
    """One panel a section, in the form of typer's own."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = Console()
    sections: dict[str, list[Parameter]] = {}
    for known in listed:
        sections.setdefault(known.section, []).append(known)
    for section, group in sections.items():
        table = Table.grid("name", "type", "meaning", padding=(0, 2, 0, 0), expand=True)
        for column, ratio in zip(table.columns, (None, 2, 5), strict=True):
            column.ratio = ratio
        for known in group:
            default = "[required]" if known.default is None else f"[default: {known.default}]"
            meaning = Text.assemble(known.meaning, " ", (default, "dim"))
            table.add_row(Text(known.name, "bold cyan"), Text(known.type, "bold yellow"), meaning)
        title = f"Parameters in {section}" if section else "Parameters: --set NAME=VALUE, or in params.yaml"
        console.print(Panel(table, title=title, title_align="left", border_style="dim"))
