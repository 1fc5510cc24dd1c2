"""``ctm-pipeline schedule``: runs that Kubeflow starts by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipelines.options import Experiment, Host, Namespace
from pipelines.request import Request, takes_request

__all__ = ["schedule"]


class CreateByDefault(typer.core.TyperGroup):
    """A group in which ``schedule --cron …`` means ``schedule create --cron …``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command in where options come first."""
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


schedule = typer.Typer(
    name="schedule",
    cls=CreateByDefault,
    help="Runs that Kubeflow starts by itself. Without a command: create.",
    no_args_is_help=True,
)


def _command_that_makes(action: str) -> Callable[..., None]:
    """``create`` or ``replace``."""

    @takes_request
    def command(
        request: Request,
        host: Host,
        cron: Annotated[
            str, typer.Option("--cron", metavar="CRON", help="When, as cron in UTC: '0 3 * * 1' is Mondays at 3:00.")
        ],
        name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the schedule.")] = "ctm",
        namespace: Namespace = None,
        experiment: Experiment = "ctm",
    ) -> None:
        from pipelines.schedule import create, cron_fields, replace
        from pipelines.server import Server
        from pipelines.submit import prepare

        fields = cron_fields(cron)  # before what takes time
        job = prepare(request, name=name, scheduled=True)
        make = {"create": create, "replace": replace}[action]
        created = make(Server(host, namespace), job, cron=fields, experiment=experiment)
        typer.echo(f"schedule {name} at {fields}\nschedule_id={created}")

    return command


for _action, _about in (
    ("create", "Start a pipeline again and again; each run reads the raw data anew."),
    ("replace", "Put a new schedule in the place of one; the new one is made before the old one is deleted."),
):
    schedule.command(_action, help=_about)(_command_that_makes(_action))


@schedule.command("list")
def list_schedules(host: Host, namespace: Namespace = None) -> None:
    """List the schedules."""
    from pipelines.schedule import listed
    from pipelines.server import Server

    for found in listed(Server(host, namespace)):
        typer.echo(f"{found.name}  {found.cron}  {found.state}  {found.id}")


@schedule.command()
def delete(
    name: Annotated[str, typer.Argument(help="Name or id of the schedule.")], host: Host, namespace: Namespace = None
) -> None:
    """Delete a schedule; runs that it has started go on."""
    from pipelines.schedule import delete
    from pipelines.server import Server

    for found in delete(Server(host, namespace), name):
        typer.echo(f"deleted {found.name} ({found.id})")
