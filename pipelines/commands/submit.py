"""``ctm-pipeline submit``: a run on Kubeflow, made from this working tree."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.options import Experiment, Host, Namespace
from pipelines.request import Request, takes_request

__all__ = ["submit"]


@takes_request
def submit(
    request: Request,
    host: Host,
    namespace: Namespace = None,
    experiment: Experiment = "ctm",
    run_name: Annotated[
        str | None, typer.Option("--run-name", metavar="NAME", help="Name of the run; left out: data, revision, time.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the run has ended; code 1 if it failed.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="With --wait: how long at most.")
    ] = None,
    poll: Annotated[
        float, typer.Option("--poll", min=0.01, metavar="SECONDS", help="With --wait: between two questions.")
    ] = 10,
) -> None:
    """Run a pipeline on Kubeflow, made from this working tree."""
    from pipelines.server import Server
    from pipelines.submit import prepare, submit_job, task_names
    from pipelines.wait import wait_for

    job = prepare(request, name=run_name)
    server = Server(host, namespace)
    run_id = submit_job(server, job, experiment=experiment)
    typer.echo(f"submitted {job.name}\nrun_id={run_id}\nurl={server.run_url(run_id)}")
    if wait:
        wait_for(server, run_id, tasks=task_names(job.package), tell=typer.echo, poll=poll, timeout=timeout)
        typer.echo(f"succeeded: {server.run_url(run_id)}")
        typer.echo(f"bring model and metrics here: ctm-pipeline record --host {host} --run {run_id}")
