"""Runs that Kubeflow starts by itself, at times given as cron."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import kfp_server_api

from pipelines.errors import PipelineError
from pipelines.server import Server
from pipelines.submit import Job

__all__ = ["Schedule", "create", "cron_fields", "delete", "listed", "replace"]

FIELD = re.compile(r"[0-9A-Za-z*?/,-]+")

RANGES = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day of month": (1, 31),
    "month": (1, 12),
    "day of week": (0, 6),
}

NAMES = {
    "month": ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    "day of week": ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
}


@dataclass(frozen=True)
class Schedule:
    """A recurring run as the server has it."""

    id: str
    name: str
    cron: str
    state: str


def cron_fields(text: str) -> str:
    """Cron as Kubeflow takes it, six fields with the seconds first, from those six or the usual five.

    Raises:
        PipelineError: it has another number of fields, or a number out of range.
    """
    fields = text.split()
    if len(fields) not in (5, 6):
        raise PipelineError(
            f"--cron {text!r} has {len(fields)} fields: expected minute, hour, day of month, month, day of week, such "
            "as '0 3 * * 1' for Mondays at 3, or these five after the seconds."
        )
    fields = ["0", *fields] if len(fields) == 5 else fields
    for field, (name, (low, high)) in zip(fields, RANGES.items(), strict=True):
        values = [int(number) for number in re.findall(r"(?<!/)\b\d+", field)]
        known = {word.upper() for word in re.findall("[A-Za-z]+", field)} <= set(NAMES.get(name, ()))
        if not (FIELD.fullmatch(field) and known and all(low <= value <= high for value in values)):
            raise PipelineError(f"--cron {text!r}: {field!r} is no {name}; numbers go from {low} to {high}.")
    return " ".join(fields)


def create(server: Server, job: Job, *, cron: str, experiment: str) -> str:
    """Makes a schedule at times that ``cron_fields`` has read; its id.

    Raises:
        PipelineError: there is one of that name, or the server refuses.
    """
    if _named(server, job.name, experiment):
        raise PipelineError(f"there is a schedule {job.name!r} already: use `schedule replace`, or another --name.")
    return _create(server, job, cron=cron, experiment=experiment)


def replace(server: Server, job: Job, *, cron: str, experiment: str) -> str:
    """Makes a schedule and then deletes those that had its name, so that there is none at no time; its id.

    Raises:
        PipelineError: the server refuses, and what was there stays; or an old one cannot be deleted.
    """
    old = _named(server, job.name, experiment)
    new = _create(server, job, cron=cron, experiment=experiment)
    for schedule in old:
        try:
            _delete(server, schedule)
        except PipelineError as error:
            raise PipelineError(
                f"the new schedule {job.name!r} is {new}, but the old one is still there, and both will run: {error} "
                f"Delete it with `schedule delete {schedule.id}`."
            ) from error
    return new


def listed(server: Server) -> list[Schedule]:
    """All schedules of the server, or of its namespace."""
    return [_schedule(entry) for entry in server.pages(server.client.list_recurring_runs, "recurring_runs")]


def delete(server: Server, name: str) -> list[Schedule]:
    """Deletes the schedules of that name, or the one with that id; runs that it has started go on.

    Raises:
        PipelineError: there is none.
    """
    every = listed(server)
    found = [schedule for schedule in every if name in (schedule.id, schedule.name)]
    if not found:
        valid = ", ".join(sorted({schedule.name for schedule in every})) or "none"
        raise PipelineError(f"no schedule {name!r} on {server.host}. Schedules: {valid}.")
    for schedule in found:
        _delete(server, schedule)
    return found


def _create(server: Server, job: Job, *, cron: str, experiment: str) -> str:
    experiment_id = server.experiment(experiment)
    body = kfp_server_api.V2beta1RecurringRun(
        experiment_id=experiment_id,
        mode=kfp_server_api.RecurringRunMode.ENABLE,
        max_concurrency="1",
        no_catchup=True,  # runs that were missed would all see the same data
        trigger=kfp_server_api.V2beta1Trigger(cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=cron)),
        **job.fields,
    )
    with server.errors():
        created = server.client.recurring_runs.recurring_run_service_create_recurring_run(recurring_run=body)
    return server.checked(created.recurring_run_id)


def _delete(server: Server, schedule: Schedule) -> None:
    with server.errors():
        server.client.delete_recurring_run(schedule.id)


def _named(server: Server, name: str, experiment: str) -> list[Schedule]:
    """The schedules of that name in the experiment: those of others are not ours to replace."""
    if not (found := server.find_experiment(experiment)):
        return []
    entries = server.pages(server.client.list_recurring_runs, "recurring_runs", experiment_id=found)
    return [schedule for schedule in map(_schedule, entries) if schedule.name == name]


def _schedule(entry: Any) -> Schedule:
    cron = entry.trigger and entry.trigger.cron_schedule and entry.trigger.cron_schedule.cron
    state = str(entry.status or entry.mode or "unknown").lower()
    return Schedule(entry.recurring_run_id, entry.display_name, cron or "periodic", state)
