"""Kubeflow's executor protocol: what a task was given, and what it says of its outputs.

The format is that of the protos ``ExecutorInput`` and ``ExecutorOutput`` of Kubeflow Pipelines 2, as JSON. Nothing of
Kubeflow is imported: the images do not have it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctm.errors import ArtifactError, ParamsError
from ctm.fingerprint import package_digest
from ctm.stage import Kind, Metrics, Stage

__all__ = ["Task", "decode_nulls", "encode_nulls", "local_path"]

MOUNTS = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/"}
"""Where Kubeflow's launcher puts the artifacts of an object store inside the container."""

NULL = "null"
"""Stands for null in Kubeflow's structs, which hold none."""

PER_CLASS = "classes"
"""Part of the metrics that has a row for every class; too long for the list of scalars in Kubeflow's pages."""


@dataclass(frozen=True)
class Task:
    """One task of a Kubeflow run.

    Attributes:
        inputs: the executor input's ``inputs``.
        outputs: its ``outputs``.
    """

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Task:
        """The task that an executor input describes.

        Raises:
            ParamsError: the text is no executor input.
        """
        try:
            document = json.loads(text)
            return cls(document.get("inputs", {}), document["outputs"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ParamsError(f"--executor-input is not what Kubeflow writes: {error!r}") from None

    def paths(self, port: str) -> list[Path]:
        """Where the artifacts of a list input lie in the container, in their order."""
        artifacts = self.inputs.get("artifacts", {}).get(port, {}).get("artifacts", [])
        return [local_path(artifact["uri"]) for artifact in artifacts]

    def expected(self, stage: Stage) -> dict[str, list[str]]:
        """The digests that the producing tasks gave for the inputs of ``stage``; none where none was passed on."""
        given = {port: self._parameter(f"{port}_digest") for port in stage.inputs}
        return {port: [value] if isinstance(value, str) else list(value) for port, value in given.items() if value}

    def check_code(self) -> None:
        """Refuses to run other code than the pipeline was submitted from.

        Raises:
            ParamsError: the package in this image is another.
        """
        submitted, present = self._parameter("code"), package_digest()
        if submitted and submitted != present:
            raise ParamsError(
                f"this image holds other code of ctm (sha256 {present[:12]}) than the pipeline was submitted from "
                f"({submitted[:12]}): build the images from that revision and submit with their digests."
            )

    def finish(self, stage: Stage, *, metrics: Path, manifest: Path) -> None:
        """Writes the digests of the outputs, and the executor output with what Kubeflow's pages show of them."""
        record = json.loads(manifest.read_text(encoding="utf-8"))
        digests = {port: output["sha256"] for port, output in record["outputs"].items()}
        about = {"stage": stage.name, "fingerprint": record["fingerprint"]}
        metadata: dict[str, Mapping[str, Any]] = {
            "metrics": dict(scalars(json.loads(metrics.read_text(encoding="utf-8")))),
            "manifest": about,
        }
        for port, output in stage.outputs.items():
            place = Path(record["outputs"][port]["path"])
            matrix = _confusion_matrix(place) if output.kind is Kind.CONFUSION else {}
            metadata[port] = {**about, "sha256": digests[port], **matrix}
        self._write(metadata, {f"{port}_digest": digest for port, digest in digests.items()})

    def write_report(self, metrics: Metrics, *, port: str) -> None:
        """Writes the executor output of a step that is no stage: its scalars on ``port``, nothing on the others."""
        self._write({port: dict(scalars(metrics))}, {})

    def _write(self, metadata: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, str]) -> None:
        declared = self.outputs.get("parameters", {})
        for name, value in parameters.items():
            if name in declared:
                _write_text(Path(declared[name]["outputFile"]), value)
        artifacts = {
            port: {"artifacts": [{"name": a["name"], "uri": a["uri"], "metadata": metadata.get(port, {})}]}
            for port, listed in self.outputs.get("artifacts", {}).items()
            for a in listed["artifacts"]
        }
        _write_text(Path(self.outputs["outputFile"]), json.dumps({"artifacts": artifacts}))

    def _parameter(self, name: str) -> Any:
        return self.inputs.get("parameterValues", {}).get(name)


def local_path(uri: str) -> Path:
    """Where an artifact lies in the container; a URI without a scheme is a path already.

    Raises:
        ArtifactError: ctm does not know where Kubeflow puts artifacts of that scheme.
    """
    for scheme, mount in MOUNTS.items():
        if uri.startswith(scheme):
            return Path(mount + uri.removeprefix(scheme))
    if "://" in uri:
        raise ArtifactError(f"{uri}: ctm reads artifacts from {', '.join(MOUNTS)} only; use such a pipeline root.")
    return Path(uri)


def decode_nulls(value: Any) -> Any:
    """``value`` with nulls where a struct of Kubeflow has their stand-in; lists are left as they are."""
    if isinstance(value, dict):
        return {name: decode_nulls(item) for name, item in value.items()}
    return None if value == NULL else value


def encode_nulls(value: Any) -> Any:
    """``value`` as a struct of Kubeflow can hold it: the text null instead of null.

    Raises:
        ParamsError: a parameter has that text as its own value.
    """
    if isinstance(value, dict):
        return {name: encode_nulls(item) for name, item in value.items()}
    if value == NULL:
        raise ParamsError(f"the text {NULL!r} stands for null in Kubeflow: no parameter can have it as its value.")
    return NULL if value is None else value


def scalars(metrics: Metrics, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested metrics by their path (``segmenter.val.miou``), without those of single classes."""
    for name, value in metrics.items():
        if isinstance(value, dict) and name != PER_CLASS:
            yield from scalars(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", value


def _confusion_matrix(file: Path) -> dict[str, Any]:
    """A confusion matrix in the form of Kubeflow's ClassificationMetrics."""
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = [{"row": row} for row in found["rows"]]
    return {"confusionMatrix": {"annotationSpecs": [{"displayName": n} for n in found["classes"]], "rows": rows}}


def _write_text(path: Path, text: str) -> None:
    """Plainly and in place: Kubeflow's launcher watches neither for whole files nor for other names beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
