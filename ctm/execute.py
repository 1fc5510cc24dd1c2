"""Runs one stage: checks its inputs, keeps its outputs whole, writes its metrics and manifest."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ctm
from ctm.errors import ArtifactError
from ctm.fingerprint import fingerprint, library_versions
from ctm.runtime.context import Context, Device
from ctm.runtime.digest import digest_artifact
from ctm.runtime.outputs import remove, staged_outputs
from ctm.runtime.storage import Tree, is_remote, listing_digest, open_tree
from ctm.stage import Config, Metrics, Source, Stage

__all__ = ["RunOptions", "execute", "manifest_path"]

logger = logging.getLogger(__name__)

ARTIFACT_MARKS = ("index.json", "model.json")
"""One of these files is in every folder that a stage writes."""


@dataclass(frozen=True)
class RunOptions:
    """What the caller of a stage decides, and what does not change the stage's result."""

    metrics: Path
    checkpoints: Path = Path(".ctm/checkpoints")
    device: Device = "auto"
    workers: int = 0
    resume: bool = True


def execute(
    stage: Stage,
    config: Config,
    *,
    inputs: Mapping[str, Path | str],
    outputs: Mapping[str, Path],
    options: RunOptions,
) -> Metrics:
    """Runs ``stage`` and returns its metrics.

    An input from outside the pipeline, a path or URI, is handed to the stage as a ``Tree``, others as paths.

    Outputs, metrics and manifest appear only after the stage has ended well; checkpoints are kept in a folder named by
    the run's fingerprint, so that a run with other code, parameters or inputs never resumes from them.

    Raises:
        ArtifactError: an input that another stage should have written is missing, or an output would replace an input
            or a folder that ctm did not write.
        StorageError: an input from outside the pipeline cannot be reached.
        CtmError: whatever the stage finds wrong.
    """
    started = datetime.now(UTC)
    clock = time.perf_counter()
    manifest_file = manifest_path(options.metrics)
    written = {**outputs, "metrics": options.metrics, "manifest": manifest_file}
    _check_places(inputs, written)
    opened = {name: _open_input(stage, name, place) for name, place in inputs.items()}
    digests = {name: _digest_input(source) for name, source in opened.items()}
    settings = config.model_dump(mode="json")
    weights = _digest_weights(config)
    identity = fingerprint(stage, settings, digests | weights)
    checkpoints = options.checkpoints / stage.name / identity[:16]
    context = Context(device=options.device, workers=options.workers, checkpoints=checkpoints, resume=options.resume)
    logger.info("%s: %s", stage.command, stage.summary)
    with staged_outputs(written) as staged:
        metrics = stage.run(config, context, **opened, **{name: staged[name] for name in outputs})
        manifest = {
            "stage": stage.name,
            "ctm": ctm.__version__,
            "git": _git_revision(),
            "fingerprint": identity,
            "config": settings,
            "inputs": {name: {"path": str(path), "sha256": digests[name]} for name, path in inputs.items()},
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
    remove(checkpoints)
    places = ", ".join(str(path) for path in outputs.values())
    logger.info("%s: wrote %s in %.0f s", stage.command, places, time.perf_counter() - clock)
    return metrics


def manifest_path(metrics: Path) -> Path:
    """Where the manifest of a run lies: beside its metrics, ``metrics/<stage>.manifest.json``."""
    return metrics.with_suffix(".manifest.json")


def _check_places(inputs: Mapping[str, Path | str], outputs: Mapping[str, Path]) -> None:
    """Refuses to write where something would be lost: into an input, another output, or what ctm did not write."""
    local = {name: Path(place) for name, place in inputs.items() if not is_remote(str(place))}
    taken = {f"--{name.replace('_', '-')}": path.resolve() for name, path in local.items()}
    for name, path in outputs.items():
        option, place = f"--{name.replace('_', '-')}", path.resolve()
        for other, used in taken.items():
            if place == used or place in used.parents or used in place.parents:
                raise ArtifactError(f"{option} {path} overlaps {other} {used}: give it a place of its own.")
        taken[option] = place
        if path.is_dir() and any(path.iterdir()) and not any((path / mark).is_file() for mark in ARTIFACT_MARKS):
            raise ArtifactError(
                f"{option} {path} is a folder that ctm did not write, and would be replaced: name another place or "
                "remove it yourself."
            )


def _digest_weights(config: Config) -> dict[str, str]:
    """The digest of each file of pretrained weights that the parameters name."""
    sections = {name: getattr(config, name) for name in type(config).model_fields}
    files = {name: getattr(section, "weights_file", None) for name, section in sections.items()}
    return {name: digest_artifact(file) for name, file in files.items() if file and file.is_file()}


def _open_input(stage: Stage, name: str, place: Path | str) -> Path | Tree:
    source = stage.inputs[name]
    if isinstance(source, Source):
        return open_tree(str(place))
    path = Path(place)
    if not path.exists():
        raise ArtifactError(
            f"{stage.command}: input --{name} {path} is missing. It is written by the stage "
            f"{source.stage.replace('_', '-')}: run that first, or `dvc repro {stage.name}`, which runs what is needed."
        )
    return path


def _digest_input(source: Path | Tree) -> str:
    return digest_artifact(source) if isinstance(source, Path) else listing_digest(source)


def _git_revision() -> dict[str, Any] | None:
    """Revision of the working tree and whether it has uncommitted changes; None outside a checkout or without git."""
    try:
        revision = _git("rev-parse", "HEAD")
        return {"revision": revision, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
