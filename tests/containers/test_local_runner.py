"""Containers under kfp's local runner: exit codes, folders, loops, rights, and what is said when something is wrong."""
# No `from __future__ import annotations` here: kfp reads the annotations themselves.

import builtins
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from kfp import dsl
from kfp.local import docker_task_handler, executor_input_utils, logging_utils

from components.factory import compiled, stage_component
from ctm.fingerprint import package_digest
from ctm.stages import STAGES
from pipelines.errors import PipelineError
from pipelines.local import Place, run_local
from tests.containers.conftest import IMAGES

pytestmark = pytest.mark.slow

DATA = IMAGES["data"]
PACKAGES = Path(__file__).parents[2] / "pipelines"
WRITE = 'mkdir -p "$(dirname "$1")" && printf %s "$0" > "$1"'


@dsl.container_component
def say(text: str, said: dsl.OutputPath(str)):
    """Writes its input."""
    return dsl.ContainerSpec(DATA, ["sh", "-c", WRITE], [text, said])


@dsl.container_component
def run(script: str):
    """Runs a shell script."""
    return dsl.ContainerSpec(DATA, ["sh", "-c"], [script])


@dsl.container_component
def keep_silent(said: dsl.OutputPath(str)):
    """Does not write its output."""
    return dsl.ContainerSpec(DATA, ["true"], [said])


@dsl.container_component
def measure(script: str, metrics: dsl.Output[dsl.Metrics]):
    """Runs a shell script that should write metrics into the file $0."""
    return dsl.ContainerSpec(DATA, ["sh", "-c"], [script, metrics.path])


@pytest.fixture
def place(tmp_path) -> Place:
    raw = tmp_path / "raw data"
    raw.mkdir()
    (raw / "file").write_text("raw")
    return Place(tmp_path / "root", tmp_path / "checkpoints", str(raw))


def run_script(component, script: str, place: Place):
    """The executions of a pipeline of one task."""

    @dsl.pipeline(name="script")
    def pipeline():
        component(script=script)

    return run_local(compiled(pipeline), arguments={}, place=place)


def test_a_failing_stage_fails_the_run_with_its_own_text_ten_times_of_ten(engine, place):
    """By kfp's own means a container that ends at once may pass as a success."""
    package = (PACKAGES / "ctm.yaml").read_text(encoding="utf-8")
    Path(place.raw, "file").unlink()
    arguments = {f"{name}_image": IMAGES["data"] for name in STAGES} | {"code": package_digest()}
    for _ in range(10):
        with pytest.raises(PipelineError) as raised:
            run_local(package, arguments=arguments, place=place)
        assert str(raised.value).startswith("preprocess (exit code 1): ")
        assert "/data/raw data" in str(raised.value)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "run (exit code 3): it wrote nothing and ended with exit code 3"),
        ("echo one >&2; echo two >&2; exit 1", "run (exit code 1): one\ntwo"),
        ("echo before; echo error: no luck; echo ' at all'; exit 1", "run (exit code 1): no luck\n at all"),
        ("sh -c 'kill -9 $$'", "run (exit code 137): Killed"),
        ("no-such-command", "not found"),
    ],
)
def test_a_failure_is_told_in_the_containers_own_words(engine, place, script, said):
    with pytest.raises(PipelineError) as raised:
        run_script(run, script, place)
    assert said in str(raised.value)


def test_what_a_container_writes_goes_to_the_log_under_its_name(engine, place, log, capsys):
    run_script(run, "echo hello; printf '50%%\\r100%%\\r'; echo done", place)
    assert log == ["run | starts", "run | hello", "run | done"]
    assert capsys.readouterr().out == ""


def test_kfp_is_as_it_was_after_a_run_and_after_a_failure(engine, place):
    def state():
        return (
            docker_task_handler.DockerTaskHandler,
            executor_input_utils.construct_local_task_root,
            logging_utils.local_logger_context,
            builtins.print,
            logging.root.disabled,
            list(logging.root.handlers),
        )

    before = state()
    run_script(run, "true", place)
    assert state() == before
    with pytest.raises(PipelineError):
        run_script(run, "false", place)
    assert state() == before


def test_a_container_has_no_rights_no_network_and_nothing_to_write_but_its_outputs(engine, place):
    script = """
        id -u; id -g
        cat "/data/raw data/file"; echo
        for folder in / /opt "/data/raw data" /tmp /home/ctm /checkpoints %s; do
            touch "$folder/x" 2>/dev/null && echo "$folder"
        done
        ls /sys/class/net
        df -m /dev/shm | awk 'END {print $2}'
        exit 9
    """
    with pytest.raises(PipelineError) as raised:
        run_script(run, script % place.pipeline_root, place)
    user = str(os.getuid() or 1000)
    assert str(raised.value).split("\n")[1:] == [
        *("0", "raw", "/tmp", "/home/ctm", "/checkpoints", str(place.pipeline_root), "lo", "1024")
    ]
    assert str(raised.value).startswith(f"run (exit code 9): {user}")
    assert (place.checkpoints / "x").stat().st_uid == int(user)


def test_the_same_run_after_a_failure_gets_new_folders_and_finds_its_checkpoints(engine, place):
    script = """
        mkdir -p "$(dirname $0)"
        test -e /checkpoints/here && echo '{"x": 1}' > $0 && exit
        touch /checkpoints/here; echo half > $0; exit 1
    """
    with pytest.raises(PipelineError):
        run_script(measure, script, place)
    (done,) = run_script(measure, script, place)
    assert json.loads((done.folder / "metrics").read_text()) == {"x": 1}
    assert {path.read_text() for path in place.pipeline_root.rglob("metrics")} == {"half\n", '{"x": 1}\n'}


def test_in_a_loop_only_the_item_changes(engine, place):
    @dsl.pipeline(name="loop")
    def loop(items: list):
        outer = say(text="outer")
        with dsl.ParallelFor(items) as item:
            inner = say(text=item)
            joined = say(text=outer.outputs["said"])
            joined.after(inner)

    done = run_local(compiled(loop), arguments={"items": ["a", "b", "c"]}, place=place)
    said = {(e.component, e.iteration): (e.folder / "said").read_text() for e in done}
    assert said == {
        ("say", ()): "outer",
        **{("say-2", (number,)): text for number, text in enumerate("abc")},
        **{("say-3", (number,)): "outer" for number in range(3)},
    }


def test_the_failure_of_one_iteration_fails_the_run(engine, place):
    @dsl.pipeline(name="loop")
    def loop():
        with dsl.ParallelFor(["true", "echo error: second; exit 1"]) as script:
            run(script=script)

    with pytest.raises(PipelineError, match=r"^run\[1\] \(exit code 1\): second$"):
        run_local(compiled(loop), arguments={}, place=place)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("true", "[Errno 2] No such file"),
        ('mkdir -p "$(dirname $0)"; echo "{" > $0', "Expecting property name"),
        ('mkdir -p "$(dirname $0)"; echo "{}" > $0', "it holds no metrics"),
    ],
)
def test_an_output_that_is_missing_or_damaged_fails_a_run_that_looks_green(engine, place, script, problem):
    with pytest.raises(PipelineError) as raised:
        run_script(measure, script, place)
    assert "outputs are not in order" in str(raised.value)
    assert f"measure: output metrics (system.Metrics) is missing or damaged: {problem}" in str(raised.value)


def test_a_parameter_that_a_task_has_not_written_is_named_as_missing(engine, place):
    @dsl.pipeline(name="silent")
    def silent():
        say(text=keep_silent().outputs["said"])

    with pytest.raises(PipelineError) as raised:
        run_local(compiled(silent), arguments={}, place=place)
    assert "keep-silent: output said is missing or damaged: [Errno 2]" in str(raised.value)


def test_a_loop_without_items_is_a_task_that_never_ran(engine, place):
    @dsl.pipeline(name="loop")
    def loop(items: list):
        with dsl.ParallelFor(items) as script:
            run(script=script)

    with pytest.raises(PipelineError, match="run: never ran"):
        run_local(compiled(loop), arguments={"items": []}, place=place)


def test_images_are_known_by_name_and_by_id(engine, place):
    @dsl.pipeline(name="images")
    def images(chosen_image: str):
        run(script="true").set_container_image(chosen_image)

    package = compiled(images)
    for image in (IMAGES["data"], f"{IMAGES['data']}:latest", engine.image("data").id):
        assert len(run_local(package, arguments={"chosen_image": image}, place=place)) == 1
    with pytest.raises(PipelineError, match="has no image ctm-nothing: build it with `make images`"):
        run_local(package, arguments={"chosen_image": "ctm-nothing"}, place=place)
    with pytest.raises(PipelineError, match="cannot be pulled"):
        run_local(package, arguments={"chosen_image": "localhost:9/ctm@sha256:" + "0" * 64}, place=place)


def test_raw_data_that_are_not_there_are_named_before_anything_runs(engine, place, tmp_path):
    with pytest.raises(PipelineError, match="nowhere: no such folder"):
        run_script(run, "true", replace(place, raw=str(tmp_path / "nowhere")))


def test_without_an_engine_the_error_says_so(monkeypatch, place, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(PipelineError, match=r"no Docker engine answers.*DOCKER_HOST"):
        run_script(run, "true", place)


def test_only_for_raw_data_in_s3_a_stage_has_the_network_and_the_credentials(
    engine, place, demo_raw, s3_server, tiny_params
):
    """The same shards as from the folder."""
    preprocess = stage_component(STAGES["preprocess"], tiny_params)

    @dsl.pipeline(name="s3")
    def pipeline(raw: str):
        preprocess(raw=raw)

    digests = set()
    for raw in (str(demo_raw), s3_server.upload("containers", demo_raw)):
        (done,) = run_local(compiled(pipeline), arguments={}, place=replace(place, raw=raw))
        digests.add((done.folder / "shards_digest").read_text())
    assert len(digests) == 1
