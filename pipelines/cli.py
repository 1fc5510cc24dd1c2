"""The command `ctm-pipeline`: its commands, and how every one of them ends."""

from __future__ import annotations

import signal
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer

import ctm
from ctm.errors import CtmError
from ctm.runtime.log import show_log
from pipelines.commands.check import check
from pipelines.commands.compile import compile_files
from pipelines.commands.new_data import new_data
from pipelines.commands.record import record
from pipelines.commands.run_local import run_local
from pipelines.commands.schedule import schedule
from pipelines.commands.submit import submit
from pipelines.commands.sweep import sweep
from pipelines.commands.trainjob import trainjob

__all__ = ["app", "main"]

HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="ctm-pipeline",
    help="The pipelines of ctm on Kubeflow: compile, check, submit, schedule, record.",
    epilog="Exit codes: 0 done; 1 an error, told in one message, or a check that failed (compile --check, check, a run "
    "or an experiment that failed); 2 wrong options or arguments; 130 ended by Ctrl-C: what was submitted, or queued "
    "with DVC, goes on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"ctm-pipeline {ctm.__version__}")
        raise typer.Exit


app.command("compile", rich_help_panel="Here")(compile_files)
for _command in (check, trainjob, run_local, sweep, new_data):
    app.command(rich_help_panel="Here")(_command)
app.command(rich_help_panel="On a server")(submit)
app.command(rich_help_panel="On a server")(record)
app.add_typer(schedule, rich_help_panel="On a server", context_settings=HELP)


def main() -> None:
    """Runs the command line; every end that is no bug has its exit code and at most one message."""
    show_log()
    # kfp warns of its coming versions, ours is pinned, and of what its local runner leaves out: a cluster's limits.
    warnings.filterwarnings("ignore", module="kfp")
    signal.signal(signal.SIGINT, _end)
    try:
        app()
    except (CtmError, OSError) as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("ctm", "components", "pipelines"):
            raise
        sys.exit(f"error: this command needs {error.name}, which is not installed: pip install 'ctm[data,dvc,kfp]'")


def _end(*_: Any) -> NoReturn:
    """Ends at Ctrl-C as a shell expects it, after what is begun has been cleaned up; click would end with code 1."""
    typer.echo("ended by Ctrl-C", err=True)
    sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
