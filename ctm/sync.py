"""dvc.yaml, derived from the stages. The one place that knows its syntax."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from ctm.fingerprint import import_closure
from ctm.stage import Parts, Ref, Source, Stage

__all__ = ["dvc_yaml"]

HEADER = "# Generated from ctm/stages by `ctm sync`. Do not edit: change the stage and run `make sync`.\n"


def dvc_yaml(stages: Iterable[Stage]) -> str:
    """The text of dvc.yaml for ``stages``, in their order.

    Each stage depends on its inputs, on every file of ctm that it imports, and on its own sections of params.yaml.
    Metrics and plots are declared; manifests are not, since they differ from run to run.
    """
    stages = list(stages)
    paths = {(stage.name, port): output.path for stage in stages for port, output in stage.outputs.items()}
    document: dict[str, Any] = {"stages": {stage.name: _stage(stage, paths) for stage in stages}}
    plots = [plot for stage in stages for plot in _plots(stage)]
    if plots:
        document["plots"] = plots
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=10**6)


def _stage(stage: Stage, paths: dict[tuple[str, str], str]) -> dict[str, Any]:
    inputs = {name: _input_path(source, paths) for name, source in stage.inputs.items()}
    outputs = {name: output.path for name, output in stage.outputs.items()}
    ports = " ".join(f"--{name.replace('_', '-')} {_quoted(path)}" for name, path in {**inputs, **outputs}.items())
    code = [file.as_posix() for file in import_closure(stage.run.__module__)]
    return {
        "desc": stage.summary,
        "cmd": f"ctm {stage.command} --params params.yaml {ports} --metrics {stage.metrics.as_posix()}",
        "params": list(_parameters(stage)),
        "deps": [*inputs.values(), *code],
        "outs": list(outputs.values()),
        "metrics": [{stage.metrics.as_posix(): {"cache": False}}],
    }


def _parameters(stage: Stage) -> Iterator[str]:
    """The sections of params.yaml that the stage reads; those of which it does not read all by their parts."""
    for name, field in stage.config.model_fields.items():
        parts: dict[str, FieldInfo] = getattr(field.annotation, "model_fields", {})
        if any(part.exclude for part in parts.values()):
            yield from (f"{name}.{part}" for part, about in parts.items() if not about.exclude)
        else:
            yield name


def _input_path(source: Source | Ref | Parts, paths: dict[tuple[str, str], str]) -> str:
    """The path of an input; one from outside is filled in by DVC from params.yaml."""
    return f"${{{source.param}}}" if isinstance(source, Source) else paths[source.stage, source.port]


def _quoted(path: str) -> str:
    """A path for the shell; what DVC fills in may have spaces."""
    return f'"{path}"' if path.startswith("$") else path


def _plots(stage: Stage) -> list[dict[str, Any]]:
    return [
        {f"{output.path}/{file}": dict(axes)}
        for output in stage.outputs.values()
        for file, axes in (output.plots or {}).items()
    ]
