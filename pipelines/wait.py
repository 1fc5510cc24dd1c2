"""Follows a run of Kubeflow to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError

from pipelines.errors import PipelineError
from pipelines.server import Server

__all__ = ["wait_for"]

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")

POLL = 10.0
"""Seconds between two questions."""

PATIENCE = 5
"""So many questions in a row may stay without an answer: runs last for hours, and servers are updated meanwhile."""


def wait_for(server: Server, run_id: str, *, tasks: Collection[str], tell: Callable[[str], None]) -> None:
    """Returns when the run has succeeded; ``tell`` gets a line whenever the state of a task changes.

    Args:
        server: where it runs.
        run_id: its id.
        tasks: the names of its tasks; what else Kubeflow lists, such as its drivers, is left out.
        tell: prints a line.

    Raises:
        PipelineError: the run has not succeeded, with the names of the failed tasks and what the server says of them.
    """
    told: dict[str, str] = {}
    while True:
        run = _ask(server, run_id)
        for task in _tasks(run, tasks):
            if task.state and told.get(task.task_id) != task.state:
                told[task.task_id] = task.state
                tell(f"{task.display_name}: {task.state.lower()}")
        if run.state == "SUCCEEDED":
            return
        if run.state in ENDED:
            raise PipelineError(_failure(server, run, tasks))
        time.sleep(POLL)


def _ask(server: Server, run_id: str) -> Any:
    """The run; a server that is out of order for a while is asked again."""
    with server.errors():
        for _ in range(PATIENCE - 1):
            try:
                return server.client.get_run(run_id)
            except ApiException as error:
                if (error.status or 0) < 500:
                    raise
            except HTTPError:
                pass
            time.sleep(POLL)
        return server.client.get_run(run_id)


def _tasks(run: Any, names: Collection[str]) -> list[Any]:
    details = (run.run_details and run.run_details.task_details) or []
    return [task for task in details if task.display_name in names]


def _failure(server: Server, run: Any, names: Collection[str]) -> str:
    """Which tasks failed, with the server's words, and where there is more."""
    failed = [task for task in _tasks(run, names) if task.state in ("FAILED", "CANCELED")]
    lines = [f"run {run.display_name or run.run_id} has {str(run.state).lower()}: {server.run_url(run.run_id)}"]
    lines += [f"  {task.display_name} {task.state.lower()}: {_words(task)}" for task in failed]
    if run.error and run.error.message:
        lines.append(f"  {run.error.message}")
    return "\n".join(lines)


def _words(task: Any) -> str:
    """What the server says of a failed task, and whose log has the rest."""
    states = [status.error for status in task.state_history or () if status.error]
    told = [error.message for error in (task.error, *reversed(states)) if error and error.message]
    pods = [task.pod_name, *(child.pod_name for child in task.child_tasks or ())]
    named = [pod for pod in pods if pod]
    log = f" (log: kubectl logs {named[-1]})" if named else ""
    return (told[0] if told else "the server gives no reason") + log
