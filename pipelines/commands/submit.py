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
    wait: Annotated[bool, typer.Option("--wait", help="Return when the run has ended; code 1 if it failed.")] = False,
) -> None:
    """Run a pipeline on Kubeflow, made from this working tree."""
    from pipelines.server import Server
    from pipelines.submit import prepare, submit_job, task_names
    from pipelines.wait import wait_for

    job = prepare(request)
    server = Server(host, namespace)
    run_id = submit_job(server, job, experiment=experiment)
    typer.echo(f"submitted {job.name}\nrun_id={run_id}\nurl={server.run_url(run_id)}")
    if wait:
        wait_for(server, run_id, tasks=task_names(job.package), tell=typer.echo)
        typer.echo(f"succeeded: {server.run_url(run_id)}")
        typer.echo(f"bring model and metrics here: ctm-pipeline record --host {host} --run {run_id}")
