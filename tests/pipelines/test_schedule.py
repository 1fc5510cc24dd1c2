"""Schedules: how cron is read, what a recurring run is sent, that there is never a moment without one."""

from __future__ import annotations

import contextlib
import dataclasses
import re

import pytest

from ctm.stages import STAGES
from pipelines.errors import PipelineError
from pipelines.request import Request
from pipelines.schedule import create, cron_fields, listed, replace
from pipelines.server import Server
from pipelines.submit import Job, prepare
from tests.pipelines.conftest import IMAGE, Call, Tree
from tests.pipelines.kubeflow_server import KubeflowServer, names

CRON = ("--cron", "0 3 * * 1")
RAW = ("--image", IMAGE, "--raw", "/mnt/demo", "--allow-unpushed")
WHEN = {"cron": "0 0 3 * * 1", "experiment": "ctm"}
SCHEDULES = "/apis/v2beta1/recurringruns"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("0 3 * * 1", "0 0 3 * * 1"),
        ("*/15 8-18 1,15 * MON-FRI", "0 */15 8-18 1,15 * MON-FRI"),
        ("30 0 3 ? * 1", "30 0 3 ? * 1"),
        ("  0   0 1 1 * ", "0 0 0 1 1 *"),
    ],
)
def test_the_usual_five_fields_get_the_seconds_before_them(given: str, taken: str):
    assert cron_fields(given) == taken


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0 3 * *", "has 4 fields: expected minute, hour, day of month, month, day of week"),
        ("@weekly", "has 1 fields"),
        ("0 25 * * 1", "'25' is no hour; numbers go from 0 to 23"),
        ("0 3 0 * *", "'0' is no day of month; numbers go from 1 to 31"),
        ("0 3 * * 1;2", "'1;2' is no day of week"),
        ("0 3 * * MOO", "'MOO' is no day of week"),
        ("0 MON * * *", "'MON' is no hour"),
    ],
)
def test_cron_that_is_none_is_refused(given: str, message: str):
    with pytest.raises(PipelineError, match=re.escape(message)):
        cron_fields(given)


@pytest.fixture
def schedule(server: KubeflowServer, succeed: Call) -> Call:
    """Calls a command of `schedule` with the server's address."""
    return lambda *arguments: succeed("schedule", *arguments, "--host", server.host)


def test_a_schedule_has_what_a_run_has_and_reads_the_data_anew(tree: Tree, server: KubeflowServer, schedule: Call):
    out = schedule("create", *CRON, "--name", "weekly", *RAW, "--experiment", "nightly", "--profile", "gke")
    [entry] = server.schedules
    assert (entry["display_name"], entry["status"]) == ("weekly", "ENABLED")
    assert entry["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert (entry["max_concurrency"], entry["no_catchup"]) == ("1", True)
    assert tree.git("rev-parse", "HEAD").strip() in entry["description"]
    assert "raw data: as each run finds them" in entry["description"]
    arguments = entry["runtime_config"]["parameters"]
    assert (arguments["raw"], arguments["raw_data"]) == ("/mnt/demo", "")
    assert {f"{name}_image" for name in STAGES} | set(STAGES) <= set(arguments)
    tasks = entry["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if task["cachingOptions"]}
    assert cached == {stage.command for stage in STAGES.values()} - {"preprocess", "evaluate"}
    assert f"schedule_id={entry['recurring_run_id']}" in out
    assert server.runs == []


def test_without_a_command_a_schedule_is_made(tree: Tree, server: KubeflowServer, schedule: Call):
    schedule(*CRON, *RAW)
    assert names(server.schedules) == ["ctm"]


@pytest.fixture(scope="session")
def job(template: Tree) -> Job:
    """What is to be repeated, called weekly."""
    with contextlib.chdir(template.root):
        return prepare(Request([IMAGE], raw="/mnt/demo", allow_unpushed=True), name="weekly", scheduled=True)


def test_a_name_that_is_taken_is_refused(server: KubeflowServer, job: Job):
    create(Server(server.host), job, **WHEN)
    with pytest.raises(PipelineError, match="there is a schedule 'weekly' already: use `schedule replace`"):
        create(Server(server.host), job, **WHEN)
    assert names(server.schedules) == ["weekly"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cron", "0 3 *", *RAW), "has 3 fields"),
        ((*CRON, "--image", "ctm-train:v1", "--raw", "/mnt/demo"), "by tag"),
        ((*CRON, "--image", IMAGE), "which the cluster cannot read"),
    ],
)
def test_what_submit_refuses_is_not_scheduled(
    tree: Tree, server: KubeflowServer, fail: Call, arguments: tuple[str, ...], message: str
):
    for command in ("create", "replace"):
        assert message in fail("schedule", command, *arguments, "--host", server.host)
    assert server.requests == []


def test_a_dirty_tree_is_not_scheduled(tree: Tree, server: KubeflowServer, fail: Call):
    (tree.root / "new.py").touch()
    assert "uncommitted changes" in fail("schedule", *CRON, *RAW, "--host", server.host)
    assert server.requests == []


def test_the_new_schedule_is_there_before_the_old_one_goes(
    tree: Tree, server: KubeflowServer, job: Job, schedule: Call
):
    old = create(Server(server.host), job, **WHEN)
    create(Server(server.host), dataclasses.replace(job, name="other"), **WHEN)
    server.requests.clear()
    schedule("replace", "--cron", "0 4 * * *", "--name", "weekly", "--experiment", WHEN["experiment"], *RAW)
    assert [(request.method, request.path) for request in server.writes] == [
        ("POST", SCHEDULES),
        ("DELETE", f"{SCHEDULES}/{old}"),
    ]
    assert names(server.schedules) == ["other", "weekly"]
    assert server.schedules[1]["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * *"


def test_a_schedule_of_another_experiment_is_not_replaced(server: KubeflowServer, job: Job):
    theirs = create(Server(server.host), job, **{**WHEN, "experiment": "theirs"})
    ours = replace(Server(server.host), job, **WHEN)
    assert {entry["recurring_run_id"] for entry in server.schedules} == {theirs, ours}


def test_where_the_new_one_is_refused_the_old_one_stays(server: KubeflowServer, job: Job):
    old = create(Server(server.host), job, **WHEN)
    server.fail("POST", SCHEDULES, 500, {"error": "InternalServerError: no space"})
    with pytest.raises(PipelineError, match="InternalServerError: no space"):
        replace(Server(server.host), job, **WHEN)
    assert [entry["recurring_run_id"] for entry in server.schedules] == [old]


def test_an_old_one_that_cannot_be_deleted_is_named(server: KubeflowServer, job: Job):
    old = create(Server(server.host), job, **WHEN)
    server.fail("DELETE", SCHEDULES, 500, {"error": "locked"})
    with pytest.raises(PipelineError, match=r"still there, and both will run: .*locked") as raised:
        replace(Server(server.host), job, **WHEN)
    assert f"`schedule delete {old}`" in str(raised.value)
    assert names(server.schedules) == ["weekly", "weekly"]


def add(server: KubeflowServer, *given: str) -> None:
    """Schedules that others have made."""
    for name in given:
        trigger = {"cron_schedule": {"cron": "0 0 3 * * 1"}}
        entry = {"recurring_run_id": f"id-{name}", "display_name": name, "status": "DISABLED", "trigger": trigger}
        server.objects["recurringruns"][entry["recurring_run_id"]] = entry


def test_schedules_are_listed_over_all_pages(server: KubeflowServer, schedule: Call):
    server.page_size = 2
    add(server, "a", "b", "c", "d", "e")
    assert [found.name for found in listed(Server(server.host))] == ["a", "b", "c", "d", "e"]
    assert schedule("list").splitlines()[0] == "a  0 0 3 * * 1  disabled  id-a"


def test_a_schedule_is_deleted_by_name_or_id(server: KubeflowServer, schedule: Call, fail: Call):
    add(server, "a", "b", "c")
    assert schedule("delete", "a") == "deleted a (id-a)\n"
    schedule("delete", "id-b")
    assert names(server.schedules) == ["c"]
    message = fail("schedule", "delete", "a", "--host", server.host)
    assert "no schedule 'a'" in message
    assert "Schedules: c." in message


def test_the_help_of_the_group_is_its_own(succeed: Call):
    out = succeed("schedule", "--help")
    assert all(command in out for command in ("create", "replace", "list", "delete"))
