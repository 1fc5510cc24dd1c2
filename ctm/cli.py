"""The command line: the commands, and how every one of them ends."""

from __future__ import annotations

import errno
import logging
import re
import signal
import sys
from collections.abc import Callable
from functools import partial
from io import TextIOWrapper
from typing import Annotated

import typer

import ctm
from ctm.commands.check_data import check_data
from ctm.commands.compare import compare
from ctm.commands.compare_runs import compare_runs
from ctm.commands.demo_data import demo_data, demo_scene
from ctm.commands.describe import describe
from ctm.commands.export import export
from ctm.commands.gate import gate
from ctm.commands.init import init
from ctm.commands.parameter_help import command_with, gate_parameters, stage_parameters
from ctm.commands.predict import predict
from ctm.commands.show import show
from ctm.commands.stage import stage_command
from ctm.commands.sync import sync
from ctm.commands.unpack import unpack
from ctm.errors import CtmError
from ctm.runtime.context import Launch
from ctm.runtime.log import show_log
from ctm.runtime.preemption import Preempted, end_on_signals
from ctm.stages import JOINS, STAGES

__all__ = ["app", "main"]

app = typer.Typer(
    name="ctm",
    help="Segmentation masks, a trained segmenter and a report from image-level labels alone.",
    epilog="Exit codes: 0 done; 1 an error, told in one message, or a check that failed (gate, check-data, sync "
    "--check); 2 wrong options or arguments; 130 ended by Ctrl-C, 143 by SIGTERM: trainings save their state first, "
    "and the same command goes on from it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


ADVICE = {
    errno.ENOSPC: "Nothing half-written is left: make room and run the command again",
    errno.EACCES: "Give yourself the right to it, or name another place",
    errno.EPERM: "Give yourself the right to it, or name another place",
    errno.EROFS: "Name a place that can be written",
    errno.ENOTDIR: "A part of this path is a file: name another place",
    errno.EISDIR: "Name a file",
}
"""What to do about an error of the file system."""


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"ctm {ctm.__version__}")
        raise typer.Exit


def _add(panel: str, *commands: Callable[..., None]) -> None:
    for command in commands:
        app.command(rich_help_panel=panel)(command)


_add("Set-up", init, show, describe, sync)
_add("Data", demo_data, demo_scene, check_data, unpack)
for _panel, _stages in (("Stages", STAGES), ("Stages in parts", JOINS)):
    for _stage in _stages.values():
        _class = command_with(partial(stage_parameters, _stage))
        app.command(_stage.command, rich_help_panel=_panel, cls=_class)(stage_command(_stage))
_add("Runs", compare, compare_runs)
app.command(rich_help_panel="Runs", cls=command_with(gate_parameters))(gate)
_add("Use", predict, export)


def main() -> None:
    """Runs the command line; every end that is no bug has its exit code and at most one message."""
    show_log(logging.INFO if Launch.from_environment().is_first else logging.ERROR)
    end_on_signals()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    try:
        app()
    except Preempted as ended:
        by = "Ctrl-C" if ended.signal == signal.SIGINT else "SIGTERM"
        typer.echo(f"ended by {by}; {ended}" if str(ended) else f"ended by {by}", err=True)
        sys.exit(ended.exit_code)
    except (CtmError, OSError) as error:
        sys.exit(f"error: {_message(error)}")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        found = str(error).partition(". ")[0] or "out of memory"
        sys.exit(f"error: {found}. In a stage, lower its batch_size, or in a training set grad_checkpointing: true.")
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == "ctm":
            raise
        extra = "onnx" if package.startswith("onnx") else "train,data"
        sys.exit(f"error: this command needs {error.name}, which is not installed: pip install 'ctm[{extra}]'")


def _message(error: Exception) -> str:
    """The error's own text; one from a worker process of a data loader comes inside that process's traceback."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.rpartition(f"{type(error).__name__}: ")[2].strip()
    if isinstance(error, OSError):
        place = re.sub(r"\.([^/]+)\.partial\b", r"\1", f"{error.filename}: ") if error.filename else ""
        text = f"{place}{error.strerror}" if error.strerror else text
        return f"{text}. {ADVICE.get(error.errno or 0, 'Correct that and run the command again')}."
    return text


if __name__ == "__main__":
    main()
