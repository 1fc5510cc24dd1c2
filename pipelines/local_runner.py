"""kfp's local runner on a Docker engine, with some of its parts replaced for as long as a run lasts.

What ``kfp.local`` 2.17.0 does by itself would leave a run's result to chance:

* A container that is gone when its exit code is asked for counts as a success (kubeflow/pipelines 13332). Here a
  container stays until its exit code is known, and only then is removed.
* In a loop, every parameter that comes from another task becomes the loop's item. Here only the item does.
* Images are looked up by tag. Here any name is right that the engine knows, the id of an image that was never pushed
  among them.
* What it prints, and how it sets up the log for that, is not made for the threads of a ParallelFor. Here each line of a
  container goes to ctm's log, with the name of the task before it.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.client import DockerClient
from docker.errors import DockerException
from kfp import local
from kfp.compiler import pipeline_spec_builder
from kfp.local import config, docker_task_handler, executor_input_utils, logging_utils, status
from kfp.local.orchestrator import task_spec_utils

__all__ = ["Execution", "docker_runner"]

logger = logging.getLogger("ctm.pipelines.local_runner")  # below `ctm`, whose log the command line shows

LAST_LINES = 15
"""How much of a container's log becomes the error where the stage has not said what is wrong."""

ENGINE_SECONDS = 600
"""How long the engine may take to answer; to create a container on a busy machine it needs more than the usual 60 s."""

ITERATION = re.compile(r"-iteration-(\d+)")


@dataclass
class Execution:
    """A task's container.

    Attributes:
        component: the component's name in the package, without ``comp-``.
        iteration: its number in each loop around it, the outermost first; empty outside loops.
        folder: where its outputs lie, by their names.
        exit_code: None as long as it has none, also when the engine could not start it.
        error: the last thing that a failed one said.
    """

    component: str
    iteration: tuple[int, ...]
    folder: Path
    exit_code: int | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """The component, and which iteration of its loops."""
        return self.component + "".join(f"[{number}]" for number in self.iteration)


@contextmanager
def docker_runner(pipeline_root: Path, **arguments: Any) -> Iterator[list[Execution]]:
    """Components that are called in this block run as containers; the list tells of each, in the order of their starts.

    Args:
        pipeline_root: existing folder that the containers' user may write into.
        arguments: those of ``docker.containers.run`` for every container, other than image and command.
    """
    executions: list[Execution] = []
    here = threading.local()  # kfp makes the folder of a task and its handler one after the other in one thread

    def own_folder(pipeline_root: str, pipeline_resource_name: str, task_resource_name: str) -> str:
        folder = Path(pipeline_root, pipeline_resource_name, task_resource_name)
        loops = tuple(map(int, ITERATION.findall(pipeline_resource_name)))
        here.execution = Execution(task_resource_name, loops, folder)
        executions.append(here.execution)
        logger.info("%s | starts", here.execution.name)
        return str(folder)

    class Handler:
        """What kfp makes for every task, and runs."""

        def __init__(
            self, image: str, full_command: list[str], pipeline_root: str, runner: Any, env_vars: dict[str, str]
        ) -> None:
            self._arguments = {**runner.container_run_args, "environment": env_vars}
            self._image, self._command = image, full_command

        def run(self) -> Any:
            execution: Execution = here.execution
            try:
                _run(execution, image=self._image, command=self._command, **self._arguments)
            except (DockerException, OSError) as error:
                execution.error = f"the Docker engine says: {error}"
            return status.Status.SUCCESS if execution.exit_code == 0 else status.Status.FAILURE

    root = str(pipeline_root.resolve())
    with ExitStack() as stack:
        for module, name, value in (
            (executor_input_utils, "construct_local_task_root", own_folder),
            (docker_task_handler, "DockerTaskHandler", Handler),
            (task_spec_utils, "create_parameter_loop_iteration_task_spec", _iteration),
            (logging_utils, "local_logger_context", nullcontext),
            (logging_utils, "indented_print", nullcontext),
            (logging_utils, "print_horizontal_line", lambda: None),
            (config.LocalExecutionConfig, "instance", None),
            (logging.root, "disabled", True),  # kfp logs there, in colours; ctm's own loggers are not touched
            (logging.root, "handlers", logging.root.handlers or [logging.NullHandler()]),  # with none it adds its own
        ):
            stack.enter_context(_replaced(module, name, value))
        # kfp removes its workspace after a run; nothing of ours is in it.
        workspace = str(pipeline_root.resolve() / "workspace")
        local.init(local.DockerRunner(**arguments), pipeline_root=root, workspace_root=workspace)
        yield executions


@contextmanager
def _replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute has another value in this block."""
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def _iteration(original_task_spec: Any, loop_item: Any, loop_task_name: str) -> Any:
    """The task of one iteration: that of the loop, with the item in its place."""
    task = type(original_task_spec)()
    task.CopyFrom(original_task_spec)
    item = task.inputs.parameters[task.parameter_iterator.item_input]
    item.runtime_value.constant.CopyFrom(pipeline_spec_builder.to_protobuf_value(loop_item))
    task.ClearField("parameter_iterator")
    return task


def _run(execution: Execution, *, image: str, command: Sequence[str], **arguments: Any) -> None:
    """Runs a container to its end, shows what it writes, and keeps its exit code."""
    client = DockerClient.from_env(timeout=ENGINE_SECONDS)
    try:
        container = client.containers.run(image, command, detach=True, **arguments)
        try:
            said = []
            for line in _lines(container.logs(stream=True)):
                logger.info("%s | %s", execution.name, line)
                said.append(line)
            execution.exit_code = container.wait(timeout=None)["StatusCode"]
            if execution.exit_code != 0:
                container.reload()
                execution.error = _error(said, container.attrs["State"])
        finally:
            container.remove(force=True)
    finally:
        client.close()


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """The lines of a stream that arrives in pieces of any size."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from map(_shown, whole)
    if rest:
        yield _shown(rest)


def _shown(line: bytes) -> str:
    """A line as a terminal would leave it: what a progress bar wrote before the last return of the carriage is gone."""
    return line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]


def _error(said: Sequence[str], state: Mapping[str, Any]) -> str:
    """What a failed container said last: ctm's own message, or else its last lines."""
    starts = [number for number, line in enumerate(said) if line.startswith("error: ")]
    lines = said[starts[-1] :] if starts else said
    text = "\n".join(lines[:LAST_LINES] if starts else lines[-LAST_LINES:]).removeprefix("error: ")
    if state.get("OOMKilled"):
        return f"killed for want of memory\n{text}".rstrip()
    return text or f"it wrote nothing and ended with exit code {state.get('ExitCode')}"
