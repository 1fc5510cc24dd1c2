"""Runs a compiled pipeline on this machine's Docker engine: every stage in its container, artifacts passed as files."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from docker.client import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import Mount
from kfp import components

from components.factory import IMAGES, struct_default
from ctm.fingerprint import package_digest
from ctm.params import Params
from ctm.runtime.outputs import staged_outputs
from ctm.runtime.storage import is_remote
from ctm.stages import STAGES
from pipelines.errors import PipelineError
from pipelines.images import choose_images
from pipelines.local_outputs import check_outputs, collect_outputs
from pipelines.local_runner import Execution, docker_runner
from pipelines.options import PipelineName
from pipelines.raw_data import raw_data_digests

__all__ = ["Place", "run_local", "run_pipeline_here"]

logger = logging.getLogger("ctm.pipelines.local")  # below `ctm`, whose log the command line shows

IMAGE_PARAMETER = re.compile(r"\{\{\$\.inputs\.parameters\['pipelinechannel--(?P<name>\w+)'\]\}\}")
"""An image that is a parameter of the pipeline, as kfp compiles it; its local runner does not fill it in."""

USER = 1000
"""The images' user; root runs containers as that one, everybody else as himself, always in group 0."""

SHARED_MEMORY = "1g"
"""Size of /dev/shm, through which torch's data loaders hand over batches; Docker's own 64 MB are too few."""

HOME = "/home/ctm"

AWS_SETTING = re.compile(r"AWS_(?!CA_BUNDLE$)(?!\w+_FILE$)\w+")
"""Variables that say where S3 is and who asks; not those that name files, which no container has."""


@dataclass(frozen=True)
class Place:
    """What the containers of a run see of this machine, and what they may use.

    Attributes:
        pipeline_root: folder for the artifacts; made if it is missing.
        checkpoints: folder for the state of unfinished runs, seen as /checkpoints; made if it is missing.
        raw: the raw data, a folder that they see under /data and cannot write, or s3://bucket/prefix. Only for the
            latter they have a network, this machine's own, and its AWS_* variables.
    """

    pipeline_root: Path
    checkpoints: Path
    raw: str

    @property
    def raw_argument(self) -> str:
        """The raw data as a stage in a container finds them."""
        return self.raw if is_remote(self.raw) else f"/data/{Path(self.raw).resolve().name}"

    def container_arguments(self) -> dict[str, Any]:
        """How every container is started: as no one in particular, with no rights, and nothing to write but outputs."""
        root = str(self.pipeline_root.resolve())
        mounts = [Mount(root, root, "bind"), Mount("/checkpoints", str(self.checkpoints.resolve()), "bind")]
        environment = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that wait leave the cores to the loop's other iteration
        if is_remote(self.raw):
            environment |= {name: value for name, value in os.environ.items() if AWS_SETTING.fullmatch(name)}
        else:
            mounts.append(Mount(self.raw_argument, str(Path(self.raw).resolve()), "bind", read_only=True))
        return {
            "user": f"{os.getuid() or USER}:0",
            "mounts": mounts,
            "environment": environment,
            "network_mode": "host" if is_remote(self.raw) else "none",
            "shm_size": SHARED_MEMORY,
            "read_only": True,
            "tmpfs": {"/tmp": "", HOME: "mode=1777"},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
        }

    def make_folders(self) -> None:
        """Makes what containers write into; otherwise the engine would, and as root.

        Raises:
            PipelineError: the raw data are not there.
        """
        if not is_remote(self.raw) and not Path(self.raw).is_dir():
            raise PipelineError(
                f"raw data {self.raw}: no such folder. `make demo` or `ctm demo-data` writes the demo's."
            )
        for folder in (self.pipeline_root, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
            if os.getuid() == 0:
                os.chown(folder, USER, 0)


def run_pipeline_here(
    kind: PipelineName,
    params: Params,
    *,
    output: Path,
    images: Iterable[str] = (),
    checkpoints: Path,
    **arguments: Any,
) -> Path:
    """Runs a committed pipeline with the parameters of ``params``; its report.

    Args:
        kind: which pipeline.
        params: give the raw data and every stage's struct.
        output: folder for what a run of DVC would leave in the working tree, under the same names. One that an earlier
            run of this function wrote is replaced when this one has ended well.
        images: as ``choose_images`` takes them; those of `make images` where none is given.
        checkpoints: folder for the state of unfinished runs; the same call after a failure goes on from there.
        arguments: further parameters of the pipeline, such as ``parts``.

    Raises:
        PipelineError: a task fails, or an output is missing or damaged.
    """
    mark = output / "local_run.txt"
    if output.exists() and not mark.exists() and any(output.iterdir()):
        raise PipelineError(f"--output {output} is a folder with other things in it: name another place.")
    package = Path(__file__).with_name(f"{kind}.yaml").read_text(encoding="utf-8")
    chosen = choose_images([*(f"{profile}={image}" for profile, image in IMAGES.items()), *images], allow_tags=True)
    known = {
        "raw_data": next(iter(raw_data_digests(params.dataset.root)), ""),
        "code": package_digest(),
        **{name: struct_default(stage, params) for name, stage in STAGES.items()},
        **{f"{name}_image": image for name, image in chosen.items()},
        **arguments,
    }
    with staged_outputs({"output": output}) as staged:  # what is there stays until the run has ended well
        folder = staged["output"]
        place = Place(folder / "kfp", checkpoints, params.dataset.root)
        report = collect_outputs(run_local(package, arguments=known, place=place), folder)
        shutil.rmtree(place.pipeline_root)
        about = f"Written by `ctm-pipeline run-local`, pipeline {kind}; the next such run replaces this folder.\n"
        (folder / mark.name).write_text(about, encoding="utf-8")
    return output / report.relative_to(folder)


def run_local(package: str, *, arguments: Mapping[str, Any], place: Place) -> list[Execution]:
    """Runs a compiled pipeline, every task in its container; the successful executions, in the order of their starts.

    Args:
        package: the compiled YAML.
        arguments: the pipeline's arguments, except for ``raw`` and ``checkpoints``, which follow from ``place``. Images
            are names or ids that the engine knows.
        place: what the containers see of this machine.

    Raises:
        PipelineError: there is no engine or image, a task fails, with its own last words, or an output of a task that
            has ended well is missing or damaged.
    """
    spec, *platform = yaml.safe_load_all(package)
    defined = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    given = {**arguments, "raw": place.raw_argument, "checkpoints": "/checkpoints"}
    given = {name: value for name, value in given.items() if name in defined}
    given |= _set_images(spec, {name: value for name, value in given.items() if name.endswith("_image")})
    _forget_retries(spec)
    place.make_folders()
    component = components.load_component_from_text(yaml.safe_dump_all([spec, *platform]))
    with docker_runner(place.pipeline_root, **place.container_arguments()) as executions:
        try:
            component(**given)
        except (RuntimeError, ValueError) as error:  # kfp says that a task failed, or has no input, and not why
            problems = _failures(executions) or list(check_outputs(spec, _done(executions)))
            raise PipelineError("\n".join(problems) or str(error)) from None
    done = _done(executions)
    if problems := list(check_outputs(spec, done)):
        raise PipelineError("\n".join(["every task has ended well, but outputs are not in order:", *problems]))
    return done


def _set_images(spec: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Gives every container the id of its image, so that a run has to the end what was there at the start.

    Returns:
        the ids in the place of the images ``given`` as parameters.

    Raises:
        PipelineError: no engine answers, or it has no such image and gets none.
    """
    containers = [executor["container"] for executor in spec["deploymentSpec"]["executors"].values()]
    named = {
        number: given[found["name"]] if (found := IMAGE_PARAMETER.fullmatch(container["image"])) else container["image"]
        for number, container in enumerate(containers)
    }
    ids = _image_ids({*named.values(), *given.values()})
    for number, container in enumerate(containers):
        container["image"] = ids[named[number]]
    return {name: ids[image] for name, image in given.items()}


def _image_ids(images: Iterable[str]) -> dict[str, str]:
    try:
        client = DockerClient.from_env()
        client.ping()
    except DockerException as error:
        raise PipelineError(
            f"no Docker engine answers ({error}): start it, or set DOCKER_HOST to the address of one."
        ) from None
    try:
        return {image: _image_id(client, image) for image in sorted(images)}
    finally:
        client.close()


def _image_id(client: Any, image: str) -> str:
    try:
        return str(client.images.get(image).id)
    except ImageNotFound:
        if "/" not in image:
            raise PipelineError(f"the Docker engine has no image {image}: build it with `make images`.") from None
    logger.info("pulling %s", image)
    try:
        return str(client.images.pull(image).id)
    except (APIError, ImageNotFound) as error:
        raise PipelineError(f"image {image} is not on this machine and cannot be pulled: {error}") from None


def _forget_retries(spec: Mapping[str, Any]) -> None:
    """Takes out what the cluster's profile says, whose waits are of no use here: the same command goes on."""
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)


def _done(executions: Iterable[Execution]) -> list[Execution]:
    return [execution for execution in executions if execution.exit_code == 0]


def _failures(executions: Iterable[Execution]) -> list[str]:
    """What went wrong in the tasks that failed."""
    failed = [execution for execution in executions if execution.exit_code != 0]
    return [
        f"{execution.name} ({'not started' if execution.exit_code is None else f'exit code {execution.exit_code}'}): "
        f"{execution.error}"
        for execution in failed
    ]
