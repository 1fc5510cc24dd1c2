"""Brings model and metrics of a finished run into the working tree, ready to be committed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ctm.errors import ArtifactError, ParamsError, StorageError
from ctm.evaluation.gate import metrics_at
from ctm.kubeflow import MOUNTS, scalars
from ctm.runtime.digest import digest_artifact
from ctm.runtime.outputs import staged_outputs
from ctm.runtime.storage import Tree, open_tree
from ctm.stages import STAGES
from pipelines.errors import PipelineError
from pipelines.server import Server
from pipelines.working_tree import dvc

__all__ = ["Record", "comparison", "fetch", "find_run", "track"]

logger = logging.getLogger("ctm.pipelines.record")  # below `ctm`, whose log the command line shows

DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
"""Where Kubeflow Pipelines keeps artifacts unless it was told another place."""

TASK = STAGES["evaluate"].command
MODEL = "segmenter"
FILES = {"metrics": "evaluate.json", "manifest": "evaluate.manifest.json"}
SOURCE = ("shards", "preprocess.manifest.json")
"""The input of evaluate that leads to the task which read the raw data, and the name of that task's manifest."""

NO_CACHE = "submit it again with --no-cache"


@dataclass(frozen=True)
class Record:
    """What was written.

    Attributes:
        files: all files and folders, the model's last.
        model: the model's folder.
        metrics: the metrics.
    """

    files: list[Path]
    model: Path
    metrics: Path


def find_run(server: Server, run: str) -> Any:
    """A run that has succeeded, by its id.

    Raises:
        PipelineError: there is none, or it has not succeeded.
    """
    with server.errors():
        found = server.client.get_run(run)
    if found.state != "SUCCEEDED":
        raise PipelineError(
            f"run {found.display_name or run} is {str(found.state).lower()}: only a run that has succeeded is "
            f"recorded. See {server.run_url(run)}."
        )
    return found


def fetch(run: Any, into: Path, *, root: str | None = None) -> Record:
    """Writes the model, the metrics and the manifests of a run below ``into``, all of them or nothing.

    Args:
        run: the run, as the server describes it.
        into: the folder.
        root: where the server keeps artifacts; None: where the run says, or else Kubeflow's own default.

    Raises:
        PipelineError: the run has no evaluation of its own, the model is not what that evaluated, or it would replace
            something else.
        StorageError: the storage cannot be reached, or refuses.
    """
    model = into / MODEL
    if model.exists() and not (model / "model.json").is_file():
        raise PipelineError(f"{model} is no model that ctm wrote, and would be replaced: move it, or give --into DIR.")
    place = _artifact_root(run, root)
    evaluation = _evaluation(place, run)
    text = evaluation.read("manifest")
    inputs = _inputs(text, evaluation.place("manifest"))
    outputs = {name: into / file for name, file in FILES.items()}
    source = _source_manifest(inputs)
    if source:
        outputs["source"] = into / SOURCE[1]
    outputs[MODEL] = model
    with staged_outputs(outputs) as staged:
        staged["metrics"].write_bytes(evaluation.read("metrics"))
        staged["manifest"].write_bytes(text)
        if source:
            staged["source"].write_bytes(source)
        _download(inputs[MODEL], staged[MODEL])
    return Record(list(outputs.values()), model, outputs["metrics"])


def track(record: Record) -> list[Path]:
    """Gives the model to DVC; the files to commit.

    Raises:
        PipelineError: DVC refuses.
    """
    done = dvc("add", str(record.model))
    if done.returncode:
        told = done.stderr.strip() or done.stdout.strip()
        raise PipelineError(f"{record.model} is written, but `dvc add {record.model}` fails: {told}")
    pointer = record.model.with_name(f"{record.model.name}.dvc")
    ignored = record.model.with_name(".gitignore")
    return [file for file in (*record.files[:-1], pointer, ignored) if file.is_file()]


def comparison(metrics: Path) -> list[str]:
    """A table of the scalars of a metrics file beside those of the branch main, where it has the file."""
    now = dict(scalars(json.loads(metrics.read_text(encoding="utf-8"))))
    before = _on_main(metrics)
    rows = [("", "main", "now", "change")] + [
        (name, _number(before.get(name)), _number(now.get(name)), _change(before.get(name), now.get(name)))
        for name in {**now, **before}
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{name:<{widths[0]}}  {before:>{widths[1]}}  {now:>{widths[2]}}  {change:>{widths[3]}}".rstrip()
        for name, before, now, change in rows
    ]


def _artifact_root(run: Any, root: str | None) -> str:
    """The folder of a run's artifacts: ``<root>/<pipeline>/<run id>``."""
    said = run.runtime_config.pipeline_root if run.runtime_config else None
    base = (root or said or DEFAULT_ROOT).partition("?")[0].rstrip("/")  # a query tells the launcher of the endpoint
    spec = run.pipeline_spec or {}
    name = spec.get("pipeline_spec", spec).get("pipelineInfo", {}).get("name")
    if not name:
        raise PipelineError(f"run {run.run_id} does not say which pipeline it is of: it was not made by `submit`.")
    return f"{base}/{name}/{run.run_id}"


def _evaluation(place: str, run: Any) -> Tree:
    """The artifacts of the run's one evaluation."""
    tree = _open(f"{place}/{TASK}")
    missing = (
        f"run {run.display_name or run.run_id} has no artifacts of {TASK} in {tree.uri}. If every task was served from "
        f"the cache, {NO_CACHE}; if the server keeps artifacts elsewhere, give --pipeline-root."
    )
    files = _files(tree, missing)
    found = sorted({PurePosixPath(file).parent.as_posix() for file in files if PurePosixPath(file).name == "manifest"})
    if len(found) != 1:
        what = f"{len(found)} evaluations, as a sweep has" if found else "no evaluation that has ended"
        raise PipelineError(
            f"run {run.display_name or run.run_id} has {what}: record a run of pipeline ctm or ctm_fanout with the "
            "parameters that were best."
        )
    return _open(f"{place}/{TASK}/{found[0]}")


def _download(model: Mapping[str, str], target: Path) -> None:
    """Copies the model that was evaluated, which an earlier run may have trained."""
    tree, expected = _open(_uri(model["path"])), model["sha256"]
    logger.info("bringing the %s from %s", MODEL, tree.uri)
    for name in _files(tree, f"the {MODEL} that was evaluated is no longer in {tree.uri}: {NO_CACHE}."):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(tree.read(name))
    if (found := digest_artifact(target)) != expected:
        raise PipelineError(
            f"the {MODEL} in {tree.uri} is not the one that was evaluated: its sha256 is {found}, and the manifest "
            f"says {expected}. It was changed or written over since; {NO_CACHE}."
        )


def _files(tree: Tree, missing: str) -> list[str]:
    """The files of a tree; ``missing`` is the message if there are none."""
    try:
        return list(tree.files)
    except StorageError as error:
        if error.__cause__ is not None:  # the storage itself has found fault
            raise
        raise PipelineError(missing) from error


def _source_manifest(inputs: Mapping[str, Mapping[str, str]]) -> bytes | None:
    """The manifest of the task that read the raw data, beside the shards; None where it is not kept."""
    shards = inputs.get(SOURCE[0])
    if shards is None:
        return None
    try:
        return _open(_uri(str(PurePosixPath(shards["path"]).parent))).read("manifest")
    except StorageError:
        return None


def _inputs(text: bytes, place: str) -> Mapping[str, Mapping[str, str]]:
    """What was evaluated, as a manifest says it: paths and digests, the model's among them."""
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise PipelineError(f"{place} is no JSON: {error}") from None
    inputs = manifest.get("inputs") if isinstance(manifest, dict) else None
    if not isinstance(inputs, dict) or not {"path", "sha256"} <= set(inputs.get(MODEL) or ()):
        raise PipelineError(f"{place} names no {MODEL} that was evaluated: it is not of this pipeline.")
    return inputs


def _open(uri: str) -> Tree:
    """The files at a URI; stores that speak S3 are all read as S3."""
    for scheme in MOUNTS:
        if uri.startswith(scheme):
            return open_tree(f"s3://{uri.removeprefix(scheme)}")
    if "://" in uri:
        raise PipelineError(f"{uri}: artifacts are read from {', '.join(MOUNTS)} and folders only.")
    return open_tree(uri)


def _uri(path: str) -> str:
    """Where a path inside a container comes from: the launcher puts ``s3://b/k`` at ``/s3/b/k``."""
    for scheme, mount in MOUNTS.items():
        if path.startswith(mount):
            return scheme + path.removeprefix(mount)
    return path


def _on_main(metrics: Path) -> dict[str, float]:
    """The scalars of the same file on main; none where there is no such branch or file."""
    for branch in ("main", "origin/main"):
        with suppress(ParamsError, ArtifactError):  # no such branch, or no metrics in its file
            if (found := metrics_at(branch, metrics)) is not None:
                return dict(scalars(found))
    return {}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _change(before: float | None, now: float | None) -> str:
    return "" if before is None or now is None else f"{now - before:+.3f}"
