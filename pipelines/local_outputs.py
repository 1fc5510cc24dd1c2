"""What a local run of a pipeline has left: checked output by output, and put where DVC would have it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ctm.data.shards import ShardFolder
from ctm.errors import CtmError
from ctm.execute import manifest_path
from ctm.runtime.digest import damaged_file, digest_artifact
from ctm.stages import JOINS, STAGES
from pipelines.local_runner import Execution

__all__ = ["check_outputs", "collect_outputs"]


def check_outputs(spec: Mapping[str, Any], executions: Sequence[Execution]) -> Iterator[str]:
    """What is wrong with the outputs of tasks that have ended well, one line each.

    Every task of the package must have run, every output that it declares must be there and must parse, and outputs
    must have the digests that the manifest and the task's own parameters tell.
    """
    ran = {execution.component for execution in executions}
    for name, component in spec["components"].items():
        if "executorLabel" in component and name.removeprefix("comp-") not in ran:
            yield f"{name.removeprefix('comp-')}: never ran"
    for execution in executions:
        declared = spec["components"][f"comp-{execution.component}"].get("outputDefinitions", {})
        for problem in (*_check_artifacts(execution.folder, declared), *_check_digests(execution.folder, declared)):
            yield f"{execution.name}: {problem}"


def collect_outputs(executions: Sequence[Execution], folder: Path) -> Path:
    """Moves the outputs of all tasks to where DVC writes them, below ``folder``; the report of the last task.

    What was made in a loop goes into ``iterations/<number>``, counted from 0.
    """
    report = folder
    for execution in executions:
        target = folder.joinpath(*(f"iterations/{number}" for number in execution.iteration))
        for source, path in _places(execution):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            source.rename(target / path)
            if path.suffix == ".html":
                report = target / path
    return report


def _check_artifacts(folder: Path, declared: Mapping[str, Any]) -> Iterator[str]:
    for name, artifact in declared.get("artifacts", {}).items():
        title = artifact.get("artifactType", {}).get("schemaTitle", "")
        check = _check_manifest if name == "manifest" else CHECKS.get(title, _check_file)
        try:
            check(folder / name)
        except (OSError, ValueError, TypeError, KeyError, SafetensorError, CtmError) as error:
            yield f"output {name} ({title}) is missing or damaged: {error}"


def _check_digests(folder: Path, declared: Mapping[str, Any]) -> Iterator[str]:
    """Holds the digests that were handed on, and those of the manifest, against the outputs themselves."""
    for name, parameter in declared.get("parameters", {}).items():
        try:
            value = (folder / name).read_text(encoding="utf-8")
            if parameter["parameterType"] != "STRING":
                json.loads(value)
        except (OSError, ValueError) as error:
            yield f"output {name} is missing or damaged: {error}"
            continue
        port = name.removesuffix("_digest")
        if port != name and value != digest_artifact(folder / port):
            yield f"output {name} is not the digest of {port}"
    if (folder / "manifest").is_file():
        for port, output in json.loads((folder / "manifest").read_text(encoding="utf-8"))["outputs"].items():
            if output["sha256"] != digest_artifact(folder / port):
                yield f"the manifest's sha256 of {port} is not that of what was written"


def _check_shards(path: Path) -> None:
    if damaged := damaged_file(path):
        raise ValueError(f"{damaged.name} is not what index.json says")
    folder = ShardFolder.open(path)
    for split in folder.splits:
        folder.split(split)


def _check_model(path: Path) -> None:
    if not isinstance(json.loads((path / "model.json").read_text(encoding="utf-8")), dict):
        raise ValueError("model.json is no object")
    with safe_open(path / "model.safetensors", "numpy") as weights:
        if not weights.keys():
            raise ValueError("model.safetensors holds no weights")


def _check_numbers(path: Path) -> None:
    metrics = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(metrics, dict) or not metrics:
        raise ValueError("it holds no metrics")


def _check_confusion(path: Path) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    size = len(table["classes"])
    if not size or [len(row) for row in table["rows"]] != [size] * size:
        raise ValueError("it is no square matrix with a row and a column for every class")


def _check_page(path: Path) -> None:
    if "</html>" not in path.read_text(encoding="utf-8"):
        raise ValueError("the page does not end")


def _check_manifest(path: Path) -> None:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if not {"stage", "fingerprint", "config", "inputs", "outputs"} <= set(manifest):
        raise ValueError("parts of the manifest are missing")


def _check_file(path: Path) -> None:
    if not path.stat().st_size:
        raise ValueError("it is empty")


CHECKS: dict[str, Callable[[Path], None]] = {
    "system.Dataset": _check_shards,
    "system.Model": _check_model,
    "system.Metrics": _check_numbers,
    "system.ClassificationMetrics": _check_confusion,
    "system.HTML": _check_page,
}
"""How an output is read, by the type that Kubeflow knows it by."""


def _places(execution: Execution) -> Iterator[tuple[Path, Path]]:
    """Each output of an execution that is more than a parameter, and where it belongs."""
    stage = (STAGES | JOINS).get(execution.component.replace("-", "_"))
    if stage is None:  # the comparison of several runs; a step without files leaves nothing
        places = {"report": f"report/{execution.component}.html", "table": f"metrics/{execution.component}.json"}
    else:
        places = {name: output.path for name, output in stage.outputs.items()}
        places |= {"metrics": str(stage.metrics), "manifest": str(manifest_path(stage.metrics))}
    for name, path in places.items():
        if (execution.folder / name).exists():
            yield execution.folder / name, Path(path)
