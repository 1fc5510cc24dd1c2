"""A stage as a component of Kubeflow Pipelines: its ports as typed artifacts, its parameters as one struct."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from ctm.kubeflow import encode_nulls
from ctm.params import Params, stage_config
from ctm.stage import Kind, Output, Parts, Profile, Ref, Source, Stage
from ctm.stages import JOINS, STAGES

__all__ = [
    "ENTRYPOINT",
    "IMAGES",
    "Port",
    "compiled",
    "component_text",
    "describe",
    "stage_component",
    "struct_default",
]

ENTRYPOINT = ["ctm-entrypoint"]
"""The command of every container; the images say CMD, not ENTRYPOINT, so that this is all that runs."""

IMAGES = {Profile.CPU: "ctm-data", Profile.GPU: "ctm-train"}
"""The images of `make images`; a pipeline replaces them by those it was submitted with."""

ARTIFACTS = {Kind.DATASET: dsl.Dataset, Kind.MODEL: dsl.Model, Kind.CONFUSION: dsl.ClassificationMetrics}
"""The type that tells Kubeflow's pages how to show an output; reports depend on what they are written as."""

HEADER = "# Generated from ctm/stages by `ctm-pipeline compile`. Do not edit: change the stage and run `make pipeline`."

TITLE = "# PIPELINE DEFINITION"
"""First line of every file that kfp compiles."""

Arguments = Callable[[Any], list[Any]]
"""Makes of what kfp hands in for a port, a placeholder, the arguments on the command line."""


def _nothing(given: Any) -> list[Any]:
    return []


@dataclass(frozen=True)
class Port:
    """One input or output of a component or pipeline: what Kubeflow knows of it, and the arguments that it becomes."""

    name: str
    annotation: Any
    about: str
    arguments: Arguments = _nothing
    default: Any = inspect.Parameter.empty


def describe(function: Any, about: str, inputs: Sequence[Port], outputs: Sequence[Port] = ()) -> None:
    """Gives a function the signature, and the docstring in Google's style, from which kfp makes component or pipeline.

    Parameters are keyword-only, so that any order is right.
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(p.name, kind, annotation=p.annotation, default=p.default) for p in inputs]
    parameters += [inspect.Parameter(p.name, kind, annotation=p.annotation) for p in outputs]
    function.__signature__ = inspect.Signature(parameters)
    lines = [about, "", "Args:", *(f"    {port.name}: {port.about}" for port in inputs), ""]
    if outputs:
        lines += ["Returns:", *(f"    {port.name}: {port.about}" for port in outputs), ""]
    function.__doc__ = "\n".join(lines)


def stage_component(stage: Stage, params: Params) -> Any:
    """The component of ``stage``; the defaults of its parameters are those of ``params``.

    Its outputs are the stage's, ``metrics``, ``manifest``, and a digest of each of the stage's: Kubeflow's cache
    compares the parameters of two tasks, never what is in their artifacts.
    """
    inputs, outputs = [*_inputs(stage), *_parameters(stage, params)], list(_outputs(stage))

    def component(*given: Any) -> dsl.ContainerSpec:
        ports = zip([*inputs, *outputs], given, strict=True)
        arguments = [argument for port, value in ports for argument in port.arguments(value)]
        task = ["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
        return dsl.ContainerSpec(IMAGES[stage.profile], ENTRYPOINT, [stage.command, *arguments, *task])

    component.__name__ = stage.name
    describe(component, stage.summary, inputs, outputs)
    return dsl.container_component(component)


def struct_default(stage: Stage, params: Params) -> dict[str, Any]:
    """The stage's sections of ``params`` as a struct, which has the text null where they have null."""
    struct: dict[str, Any] = encode_nulls(stage_config(params, stage.config).model_dump(mode="json"))
    return struct


def component_text(stage: Stage, params: Params) -> str:
    """What is in ``components/<stage>.yaml``."""
    return compiled(stage_component(stage, params))


def compiled(component: Any) -> str:
    """A component or pipeline as YAML, the same on every machine and in every run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "compiled.yaml"
        compiler.Compiler().compile(component, str(file))
        title, *lines = file.read_text(encoding="utf-8").split("\n")
    if title != TITLE:
        raise ValueError(f"kfp begins its files with {title!r} and no longer with {TITLE!r}: see what it writes there.")
    # In place of kfp's first line: its loader finds the description by the number of the line.
    return "\n".join([HEADER, *map(_without_default, lines)])


def _without_default(line: str) -> str:
    """Comments lose the defaults that the text below has in order: here kfp writes structs in an order of chance."""
    return line.partition(" [Default: ")[0] if line.startswith("#") else line


def _inputs(stage: Stage) -> Iterator[Port]:
    for name, source in stage.inputs.items():
        match source:
            case Source():
                about = f"Raw data, a folder of the container or s3://bucket/prefix; {source.param} in params.yaml."
                yield Port(name, str, about, _value(name))
            case Ref():
                artifact = dsl.Input[_artifact(_written(source))]
                yield Port(name, artifact, f"Output {source.port} of {source.stage}.", _path(name))
            case Parts():  # kfp has no path of a list: ctm takes the paths from the executor input
                artifacts = dsl.Input[list[_artifact(_written(source))]]  # type: ignore[misc]
                yield Port(name, artifacts, f"Output {source.port} of every part of {source.stage}.")


def _parameters(stage: Stage, params: Params) -> Iterator[Port]:
    sections = f"The sections {', '.join(stage.config.model_fields)} of params.yaml; the text null stands for null."
    yield Port("config", dict, sections, _value("config"), default=struct_default(stage, params))
    override = "One section.name=value that takes the place of what config says; empty: none."
    yield Port("override", str, override, _value("set"), default="")
    for name, source in stage.inputs.items():
        if isinstance(source, Ref):
            yield Port(f"{name}_digest", str, f"Digest that {name} must have; empty: any.", default="")
        if isinstance(source, Parts):
            yield Port(f"{name}_digest", list, f"Digests that {name} must have; empty: any.", default=[])
    yield _label("raw_data", "Digest of the raw data: when it differs, no result of the cache is taken.")
    yield _label("code", "Digest of the package ctm, which the image must hold; empty: any.")
    yield _label("image", "The image that this runs in, for the manifest.")
    checkpoints = "Where the state of an unfinished run is kept: a mounted folder or s3://bucket/prefix."
    yield Port("checkpoints", str, checkpoints, _value("checkpoints"), default="/checkpoints")
    if stage.divisible:
        part = "K/N: only the K-th of N parts of the samples."
        yield Port("part", str, part, _value("part"), default="1/1")


def _outputs(stage: Stage) -> Iterator[Port]:
    outputs = {
        name: (_artifact(output), f"The {output.kind.value}; {output.path} in a working tree.")
        for name, output in stage.outputs.items()
    }
    outputs["metrics"] = (dsl.Metrics, "The stage's numbers.")
    outputs["manifest"] = (dsl.Artifact, "What the outputs were made of: revision, parameters, digests, versions.")
    for name, (artifact, about) in outputs.items():
        yield Port(name, dsl.Output[artifact], about, _path(name))
    for name in stage.outputs:  # ctm writes these where the executor input says
        yield Port(f"{name}_digest", dsl.OutputPath(str), f"Digest of {name}.")


def _label(name: str, about: str) -> Port:
    return Port(name, str, about, lambda given: ["--label", f"{name}={given}"], default="")


def _value(name: str) -> Arguments:
    return lambda given: [_flag(name), given]


def _path(name: str) -> Arguments:
    return lambda given: [_flag(name), given.path]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _written(source: Ref | Parts) -> Output:
    """The output that an input comes from."""
    return (STAGES | JOINS)[source.stage].outputs[source.port]


def _artifact(output: Output) -> Any:
    page = dsl.HTML if output.path.endswith(".html") else dsl.Artifact
    return ARTIFACTS.get(output.kind, page)
