"""Makes a run of a pipeline out of the working tree, and hands it to Kubeflow."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import kfp_server_api
import yaml

from components.factory import struct_default
from ctm.fingerprint import package_digest
from ctm.params import Params, load_params
from ctm.runtime.storage import is_remote
from ctm.stage import Source
from ctm.stages import STAGES
from pipelines.build import compile_text
from pipelines.check import LOADER, check_package
from pipelines.errors import PipelineError
from pipelines.images import choose_images
from pipelines.profiles import load_profile
from pipelines.raw_data import check_pushed, cluster_path, raw_data_digest
from pipelines.request import Request
from pipelines.server import Server
from pipelines.table8 import RUNS
from pipelines.working_tree import Revision, git_revision

__all__ = ["Job", "prepare", "submit_job", "task_names"]

logger = logging.getLogger("ctm.pipelines.submit")  # below `ctm`, whose log the command line shows

LABEL_LENGTH = 63
"""Characters that Kubernetes takes for the value of a label."""


@dataclass(frozen=True)
class Job:
    """A run as Kubeflow takes it, checked as far as that is possible without the server."""

    name: str
    description: str
    package: dict[str, Any]
    arguments: dict[str, Any]
    service_account: str | None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that a run and a recurring run have in common."""
        return {
            "display_name": self.name,
            "description": self.description,
            "pipeline_spec": self.package,
            "runtime_config": kfp_server_api.V2beta1RuntimeConfig(parameters=self.arguments),
            "service_account": self.service_account,
        }


@dataclass(frozen=True)
class Origin:
    """What a run is made from; every pod and the run's page say it."""

    revision: Revision
    raw_data: str
    code: str
    images: Mapping[str, str]

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the pods: the values shortened to what Kubernetes takes, the manifests have them whole."""
        values = {"git": self.revision.commit, "raw-data": self.raw_data, "code": self.code}
        values |= {f"image-{name.replace('_', '-')}": ref.partition("@")[2] or ref for name, ref in self.images.items()}
        return {f"ctm/{name}": text for name, value in values.items() if (text := _label(value))}

    @property
    def lines(self) -> str:
        """One line for each fact."""
        changes = len(self.revision.changes)
        facts = {
            "git revision": (self.revision.commit or "none")
            + (f" with {changes} uncommitted changes" if changes else ""),
            "raw data": self.raw_data or "as each run finds them",
            "code": self.code,
            **{f"image of {name}": reference for name, reference in self.images.items()},
        }
        return "\n".join(f"{name}: {value}" for name, value in facts.items())


def prepare(request: Request, *, name: str | None = None, scheduled: bool = False) -> Job:
    """Checks all that is asked for, compiles the package for the profile, and gathers its arguments.

    Args:
        request: what is asked for.
        name: what the run is called; None: made from data, revision and time.
        scheduled: the run will be repeated, on data that are not known yet.

    Raises:
        PipelineError: the tree has uncommitted changes, the data are not pushed or out of the cluster's reach, an image
            is named by tag, or the package has a fault.
        ParamsError: a parameter is wrong.
        StorageError: the raw data cannot be listed.
    """
    params = load_params(request.params, request.overrides)
    profile = load_profile(request.profile, request.profiles)
    images = choose_images(request.images, allow_tags=request.allow_tags)
    revision = git_revision(allow_dirty=request.allow_dirty)
    raw = cluster_path(params.dataset.root, request.raw)
    _check_places(request, params)
    if not request.allow_unpushed:
        check_pushed(params.dataset.root)
    raw_data = request.raw_hash or ""
    if not raw_data and not scheduled:
        raw_data = raw_data_digest(raw, params.dataset.root)
    logger.info("compiling %s for profile %s", request.pipeline, request.profile)
    origin = Origin(revision, raw_data, package_digest(), images)
    text = compile_text(request.pipeline, params, profile, labels=origin.labels)
    if problems := check_package(text, allow_tags=request.allow_tags):
        raise PipelineError(f"the pipeline compiled for profile {request.profile} has faults:\n" + "\n".join(problems))
    package = _package(text)
    _set_caching(package, uncached=_uncached(request, scheduled=scheduled))
    return Job(
        name=name or _run_name(params, revision),
        description=f"{request.pipeline}, profile {request.profile}\n{origin.lines}",
        package=package,
        arguments=_arguments(request, params, package, raw=raw, origin=origin),
        service_account=profile.service_account,
    )


def submit_job(server: Server, job: Job, *, experiment: str) -> str:
    """Starts a run; its id.

    Raises:
        PipelineError: the server refuses.
    """
    logger.info("submitting to %s", server.host)
    experiment_id = server.experiment(experiment)
    run = kfp_server_api.V2beta1Run(experiment_id=experiment_id, **job.fields)
    with server.errors():  # the client's own create_run_from_pipeline_package knows no description
        created = server.client.runs.run_service_create_run(run=run)
    return server.checked(created.run_id)


def task_names(package: Mapping[str, Any]) -> list[str]:
    """The names of all tasks of a package, those inside loops among them."""
    return [name for name, _ in _tasks(package)]


def _package(text: str) -> dict[str, Any]:
    """A compiled file as the API takes it."""
    spec, *platform = yaml.load_all(text, LOADER)
    return {"pipeline_spec": spec} | ({"platform_spec": platform[0]} if platform else {})


def _tasks(package: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    spec = package["pipeline_spec"]
    for component in (spec["root"], *spec.get("components", {}).values()):
        yield from component.get("dag", {}).get("tasks", {}).items()


def _uncached(request: Request, *, scheduled: bool) -> set[str] | None:
    """The tasks that must run; None: all.

    The evaluation always does: `record` finds a run by what that has left in the run's own folder.
    A repeated run always reads the raw data anew: what they will be is no argument of it. The stages after that are
    served from the cache unless preprocess has written something else.
    """
    if not request.cache:
        return None
    readers = [s.command for s in STAGES.values() if any(isinstance(i, Source) for i in s.inputs.values())]
    return {STAGES["evaluate"].command, *(readers if scheduled else ())}


def _set_caching(package: Mapping[str, Any], *, uncached: set[str] | None) -> None:
    """Turns the cache off for some tasks or, unlike kfp's own option, for those inside loops as well."""
    for name, task in _tasks(package):
        if uncached is None or name in uncached:
            task["cachingOptions"] = {}


def _arguments(
    request: Request, params: Params, package: Mapping[str, Any], *, raw: str, origin: Origin
) -> dict[str, Any]:
    """The arguments of a run, of those that the package has."""
    defined = package["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
    if request.parts is not None and "parts" not in defined:
        raise PipelineError(f"--parts: {request.pipeline} has no stage that runs in parts; give --pipeline ctm_fanout.")
    if request.runs and "overrides" not in defined:
        raise PipelineError(f"--run: {request.pipeline} is no sweep; give --pipeline ctm_sweep.")
    _check_runs(request)
    known: dict[str, Any] = {"raw": raw, "raw_data": origin.raw_data, "code": origin.code}
    known |= {"checkpoints": request.checkpoints, "parts": request.parts, "overrides": list(request.runs) or None}
    known |= {f"{name}_image": image for name, image in origin.images.items()}
    known |= {name: struct_default(stage, params) for name, stage in STAGES.items()}
    return {name: value for name, value in known.items() if name in defined and value is not None}


def _check_runs(request: Request) -> None:
    """Refuses runs of a sweep, those that it has by default too, that cannot run or would compute the same."""
    first = next(iter(STAGES.values()))
    default = RUNS if request.pipeline == "ctm_sweep" else ()
    for run in request.runs or default:
        load_params(request.params, [*request.overrides, run])
        if run.partition(".")[0].strip() in first.config.model_fields:
            raise PipelineError(
                f"--run {run}: {first.command} runs once for all; vary what comes after it, or submit several times."
            )


def _check_places(request: Request, params: Params) -> None:
    """Refuses paths that pods do not have."""
    place = request.checkpoints
    if place is not None and not (is_remote(place) or place.startswith("/")):
        raise PipelineError(f"--checkpoints {place!r}: expected s3://bucket/prefix or the absolute path of a volume.")
    for name in type(params).model_fields:
        file = getattr(getattr(params, name), "weights_file", None)
        if file is not None and not file.is_absolute():
            raise PipelineError(
                f"{name}.pretrained {file} is a path of this machine: give true, false, or the absolute path at which "
                "the images have the file."
            )


def _run_name(params: Params, revision: Revision) -> str:
    """``ctm-<data>-<revision>-<time>``."""
    data = re.sub(r"[^A-Za-z0-9]+", "-", PurePosixPath(params.dataset.root).name).strip("-") or "data"
    return f"ctm-{data}-{revision.short}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _label(value: str) -> str:
    """A text as the value of a label."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", value.removeprefix("sha256:"))[:LABEL_LENGTH].strip("._-")
