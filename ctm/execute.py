"""Runs one stage: checks its inputs, keeps its outputs whole, writes its metrics and manifest."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ctm
from ctm.errors import ArtifactError, ParamsError
from ctm.fingerprint import fingerprint, library_versions
from ctm.metrics import figure
from ctm.runtime.checkpoint_store import WORKING_FOLDER, end_checkpoints, open_checkpoints
from ctm.runtime.context import SINGLE, WHOLE, Context, Device, Launch, Part
from ctm.runtime.digest import damaged_file, digest_artifact
from ctm.runtime.outputs import partial_path, staged_outputs
from ctm.runtime.provenance import git_revision, run_label
from ctm.runtime.storage import Tree, is_remote, listing_digest, open_tree
from ctm.stage import Config, Kind, Metrics, Parts, Source, Stage

__all__ = ["RunOptions", "execute", "manifest_path"]

logger = logging.getLogger(__name__)

ARTIFACT_MARKS = ("index.json", "model.json")
"""One of these files is in every folder that a stage writes."""


@dataclass(frozen=True)
class RunOptions:
    """What the caller of a stage decides beside its parameters, inputs and outputs.

    Attributes:
        metrics: where the metrics are written.
        manifest: where the manifest is written; None: beside the metrics.
        checkpoints: folder, or s3://bucket/prefix, for the state of unfinished runs.
        device: where to run.
        workers: processes that decode images; None: as many as suit the device.
        resume: whether to continue an interrupted run.
        part: the share of the samples to handle; the whole for all but divisible stages.
        labels: recorded in the manifest as they are.
        expected: digests that inputs must have, where they are known; several for a list of paths.
        launch: which of several processes this is.
    """

    metrics: Path
    manifest: Path | None = None
    checkpoints: Path | str = WORKING_FOLDER
    device: Device = "auto"
    workers: int | None = None
    resume: bool = True
    part: Part = WHOLE
    labels: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, Sequence[str]] = field(default_factory=dict)
    launch: Launch = SINGLE


Place = Path | str | Sequence[Path]
"""Where an input lies: a path, a URI, or the paths of several parts."""


def execute(
    stage: Stage,
    config: Config,
    *,
    inputs: Mapping[str, Place],
    outputs: Mapping[str, Path],
    options: RunOptions,
) -> Metrics:
    """Runs ``stage`` and returns its metrics.

    An input from outside the pipeline, a path or URI, is handed to the stage as a ``Tree``, others as paths.

    Outputs, metrics and manifest appear only after the stage has ended well; checkpoints are kept in a folder named by
    the run's fingerprint, so that a run with other code, parameters or inputs never resumes from them.

    Of several processes the first writes, and the others return no metrics; the stage lets none of them end before all
    have ended well.

    Raises:
        ArtifactError: an input that another stage should have written is missing, or an output would replace an input
            or a folder that ctm did not write.
        StorageError: an input from outside the pipeline cannot be reached.
        CtmError: whatever the stage finds wrong.
    """
    started = datetime.now(UTC)
    clock = time.perf_counter()
    _check_processes(stage, options.launch)
    manifest_file = options.manifest or manifest_path(options.metrics)
    written = {**outputs, "metrics": options.metrics, "manifest": manifest_file}
    _check_places(inputs, written)
    if options.launch.is_first:  # the others write nothing
        _check_writable(stage, written)
    opened = {name: _open_input(stage, name, place) for name, place in inputs.items()}
    digests = {name: _digest_input(source) for name, source in opened.items()}
    _check_digests(stage, opened, digests, options.expected)
    settings = config.model_dump(mode="json")
    weights = _digest_weights(config)
    identity = fingerprint(stage, settings, _identity(digests, options.part) | weights)
    checkpoints, store = open_checkpoints(options.checkpoints, f"{stage.name}/{identity[:16]}")
    context = Context(
        device=options.device,
        workers=options.workers,
        checkpoints=checkpoints,
        checkpoint_store=store,
        resume=options.resume,
        part=options.part,
        launch=options.launch,
    )
    logger.info("%s: %s", stage.command, stage.summary)
    if not options.launch.is_first:
        stage.run(config, context, **opened, **{name: partial_path(path) for name, path in outputs.items()})
        return {}
    with staged_outputs(written) as staged:
        metrics = stage.run(config, context, **opened, **{name: staged[name] for name in outputs})
        manifest = {
            "stage": stage.name,
            "ctm": ctm.__version__,
            "git": git_revision(),
            "fingerprint": identity,
            "labels": {**run_label(), **options.labels},
            "config": settings,
            "part": str(options.part),
            "inputs": {name: _input_record(place, digests[name]) for name, place in inputs.items()},
            "pretrained": weights,
            "outputs": {
                name: {"path": str(path), "sha256": digest_artifact(staged[name])} for name, path in outputs.items()
            },
            "libraries": library_versions(stage.run.__module__),
            "python": platform.python_version(),
            "host": platform.node(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 1),
            "skipped": context.skipped,
            "timings": context.timings,
        }
        staged["metrics"].write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        staged["manifest"].write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    end_checkpoints(checkpoints, store)
    places = ", ".join(str(path) for path in outputs.values())
    figures = "".join(f"; {name} {value:.4g}" for name in stage.shown if (value := figure(metrics, name)) is not None)
    logger.info("%s: wrote %s in %.0f s%s", stage.command, places, time.perf_counter() - clock, figures)
    return metrics


def manifest_path(metrics: Path) -> Path:
    """Where the manifest of a run lies: beside its metrics, ``metrics/<stage>.manifest.json``."""
    return metrics.with_suffix(".manifest.json")


def _check_processes(stage: Stage, launch: Launch) -> None:
    """Refuses to run as several processes a stage that each of them would do, and write, as a whole."""
    if launch.world > 1 and not stage.distributed:
        raise ParamsError(
            f"{stage.command} runs as one process, and torchrun has started {launch.world} (WORLD_SIZE): start it "
            "without torchrun, in a container with CTM_NPROC=1 and on one node."
        )


def _check_places(inputs: Mapping[str, Place], outputs: Mapping[str, Path]) -> None:
    """Refuses to write where something would be lost: into an input, another output, or what ctm did not write."""
    local = [(name, path) for name, place in inputs.items() for path in _listed(place) if not is_remote(str(path))]
    taken = {f"--{name.replace('_', '-')} {path}": Path(path).resolve() for name, path in local}
    for name, path in outputs.items():
        option, place = f"--{name.replace('_', '-')}", path.resolve()
        for other, used in taken.items():
            if place == used or place in used.parents or used in place.parents:
                raise ArtifactError(f"{option} {path} overlaps {other}: give it a place of its own.")
        taken[f"{option} {path}"] = place
        if path.is_dir() and any(path.iterdir()) and not any((path / mark).is_file() for mark in ARTIFACT_MARKS):
            raise ArtifactError(
                f"{option} {path} is a folder that ctm did not write, and would be replaced: name another place or "
                "remove it yourself."
            )


def _check_writable(stage: Stage, outputs: Mapping[str, Path]) -> None:
    """Refuses now, and not after hours, to write where nothing can be written."""
    for name, path in outputs.items():
        is_folder = name in stage.outputs and stage.outputs[name].kind in (Kind.DATASET, Kind.MODEL)
        place = next(parent for parent in path.absolute().parents if parent.exists())
        wrong = None
        if not place.is_dir():
            wrong = f"{place} is a file, no folder"
        elif not os.access(place, os.W_OK | os.X_OK):
            wrong = f"nothing may be written into {place}"
        elif path.is_file() and is_folder:
            wrong = "it is a file, and a folder is to be written"
        elif path.is_dir() and not is_folder:
            wrong = "it is a folder, and a file is to be written"
        if wrong:
            raise ArtifactError(f"--{name.replace('_', '-')} {path}: {wrong}. Name another place.")


def _digest_weights(config: Config) -> dict[str, str]:
    """The digest of each file of pretrained weights that the parameters name."""
    sections = {name: getattr(config, name) for name in type(config).model_fields}
    files = {name: getattr(section, "weights_file", None) for name, section in sections.items()}
    return {name: digest_artifact(file) for name, file in files.items() if file and file.is_file()}


def _open_input(stage: Stage, name: str, place: Place) -> Path | Tree | list[Path]:
    source = stage.inputs[name]
    if isinstance(source, Source):
        return open_tree(str(place))
    paths = [Path(path) for path in _listed(place)]
    for path in paths:
        if not path.exists():
            raise ArtifactError(
                f"{stage.command}: input --{name} {path} is missing. It is written by the stage "
                f"{source.stage.replace('_', '-')}: run that first, or `dvc repro {stage.name}`, which runs what is "
                "needed."
            )
    return paths if isinstance(source, Parts) else paths[0]


def _listed(place: Place) -> Sequence[Path | str]:
    return [place] if isinstance(place, Path | str) else place


def _digest_input(source: Path | Tree | list[Path]) -> list[str]:
    """The digest of an input; one for each path of a list."""
    if isinstance(source, list):
        return [digest_artifact(path) for path in source]
    return [digest_artifact(source) if isinstance(source, Path) else listing_digest(source)]


def _check_digests(
    stage: Stage,
    opened: Mapping[str, Path | Tree | list[Path]],
    digests: Mapping[str, list[str]],
    expected: Mapping[str, Sequence[str]],
) -> None:
    """Holds the inputs whose digests are known against them, to the last byte: they have come over a network."""
    for name, wanted in expected.items():
        if digests[name] != list(wanted):
            found, should = (", ".join(digest[:12] for digest in listed) for listed in (digests[name], wanted))
            raise ArtifactError(
                f"{stage.command}: input --{name} is not what was written for it: its sha256 is {found} and should be "
                f"{should}. It was changed or copied in part: run the stage that writes it again."
            )
        source = opened[name]
        for path in source if isinstance(source, list) else [source]:
            if isinstance(path, Path) and (damaged := damaged_file(path)):
                raise ArtifactError(
                    f"{stage.command}: {damaged} of input --{name} is not what its index.json says: it was changed or "
                    "copied in part. Run the task again, or the stage that writes it."
                )


def _identity(digests: Mapping[str, list[str]], part: Part) -> dict[str, str]:
    """What the fingerprint counts as inputs; the part where it is not the whole."""
    joined = {name: "+".join(listed) for name, listed in digests.items()}
    return joined if part == WHOLE else {**joined, "--part": str(part)}


def _input_record(place: Place, digests: list[str]) -> dict[str, Any] | list[dict[str, Any]]:
    """An input as the manifest has it: a list for the parts of a list."""
    records = [{"path": str(path), "sha256": digest} for path, digest in zip(_listed(place), digests, strict=True)]
    return records[0] if isinstance(place, Path | str) else records
