"""The pipelines, made from the stages: the six in a row, one stage in parts, and a sweep over parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from kfp import dsl, kubernetes

from components.factory import Port, compiled, component_text, describe, stage_component, struct_default
from components.steps import compare_runs, list_parts
from ctm.params import Params
from ctm.stage import Parts, Profile, Source, Stage
from ctm.stages import JOINS, STAGES
from pipelines.options import PipelineName
from pipelines.profiles import ClusterProfile, apply, load_profile
from pipelines.table8 import RUNS

__all__ = ["PIPELINES", "build_pipeline", "compile_text", "generated_files"]


@dataclass(frozen=True)
class Graph:
    """A pipeline while its tasks are added; inputs find the outputs that they refer to.

    Attributes:
        cluster: what tasks ask of the cluster.
        params: the defaults of the components' parameters.
        labels: put on every pod.
        given: the parameters of the pipeline.
        outputs: by stage and port, what the stages added so far have written; ``<port>_digest`` is the port's digest.
    """

    cluster: ClusterProfile
    params: Params
    labels: Mapping[str, str]
    given: Mapping[str, Any]
    outputs: dict[tuple[str, str], Any] = field(default_factory=dict)

    def add_stage(self, stage: Stage, *, settings_of: str | None = None, **arguments: Any) -> None:
        """Adds a stage; ``settings_of`` names the one whose image and struct it has, where they are not its own."""
        name = settings_of or stage.name
        image = self.given[f"{name}_image"]
        arguments |= {"config": self.given[name], "image": image}
        arguments |= {shared: self.given[shared] for shared in ("raw_data", "code", "checkpoints")}
        for port, source in stage.inputs.items():
            if isinstance(source, Source):
                arguments[port] = self.given[port]
                continue
            for suffix in ("", "_digest"):
                output = self.outputs[source.stage, source.port + suffix]
                arguments[port + suffix] = dsl.Collected(output) if isinstance(source, Parts) else output
        component = stage_component(stage, self.params)
        # Kubeflow 2.17 refuses a task whose arguments refer to a parameter that it is not given, default or not.
        defaults = {name: port.default for name, port in component.component_spec.inputs.items()}
        arguments = {name: value for name, value in defaults.items() if value is not None} | arguments
        task = self.place(component(**arguments), stage.profile, image, distributed=stage.distributed)
        self.outputs.update({(stage.name, port): output for port, output in task.outputs.items()})

    def place(self, task: Any, profile: Profile, image: Any, *, distributed: bool = False) -> Any:
        """Gives a task its image and what the cluster's profile says."""
        task.set_container_image(image)
        needs = self.cluster.needs(profile)
        apply(task, needs if distributed else needs.of_one_process(), self.cluster)
        for name, value in self.labels.items():
            kubernetes.add_pod_label(task, name, value)
        return task


def add_all(graph: Graph) -> None:
    """The stages, each once."""
    for stage in STAGES.values():
        graph.add_stage(stage)


def add_in_parts(graph: Graph) -> None:
    """The stages; those that can be joined run in parts, and those after them read what has been joined."""
    joins = {source.stage: join for join in JOINS.values() for source in _sources(join, Parts)}
    for stage in STAGES.values():
        if not (join := joins.get(stage.name)):
            graph.add_stage(stage)
            continue
        image = graph.given[f"{next(iter(STAGES))}_image"]
        parts = graph.place(list_parts(count=graph.given["parts"]), Profile.CPU, image)
        with dsl.ParallelFor(parts.output) as part:
            graph.add_stage(stage, part=part)
        graph.add_stage(join, settings_of=stage.name)
        for port in join.outputs:
            for suffix in ("", "_digest"):
                graph.outputs[stage.name, port + suffix] = graph.outputs[join.name, port + suffix]


def add_sweep(graph: Graph) -> None:
    """The first stage once, the later ones for each override, and one comparison of what the last one measured."""
    first, *later = STAGES.values()
    graph.add_stage(first)
    overrides = graph.given["overrides"]
    with dsl.ParallelFor(overrides) as override:
        for stage in later:
            graph.add_stage(stage, override=override)
    last = later[-1]
    metrics = dsl.Collected(graph.outputs[last.name, "metrics"])
    image = graph.given[f"{last.name}_image"]
    compared = graph.place(compare_runs(names=overrides, metrics=metrics), Profile.CPU, image)
    compared.set_caching_options(False)  # the cache would not see that the metrics are others


@dataclass(frozen=True)
class Plan:
    """What tells one pipeline from the others."""

    about: str
    add: Callable[[Graph], None]
    parameters: tuple[Port, ...] = ()


PIPELINES: dict[PipelineName, Plan] = {
    "ctm": Plan("Segmentation masks, a trained segmenter and a report from image-level labels alone.", add_all),
    "ctm_fanout": Plan(
        "The pipeline ctm with the pseudo-masks extracted in parts, side by side; the results are the same.",
        add_in_parts,
        (Port("parts", int, "How many parts run side by side, each on a GPU of its own.", default=4),),
    ),
    "ctm_sweep": Plan(
        "The pipeline ctm once for each override, on the same shards, with one report that compares them.",
        add_sweep,
        (Port("overrides", list, "One section.name=value a run; the default is the paper's Table 8.", default=RUNS),),
    ),
}


def build_pipeline(
    kind: PipelineName, params: Params, profile: ClusterProfile, labels: Mapping[str, str] | None = None
) -> Any:
    """A pipeline for kfp; ``params`` gives the defaults of its parameters, ``labels`` are put on every pod."""
    plan = PIPELINES[kind]
    parameters = [*_common_parameters(params, profile), *plan.parameters, *_stage_parameters(params)]

    def pipeline(*given: Any) -> None:
        names = [parameter.name for parameter in parameters]
        plan.add(Graph(profile, params, labels or {}, dict(zip(names, given, strict=True))))

    describe(pipeline, plan.about, parameters)
    return dsl.pipeline(name=kind.replace("_", "-"))(pipeline)


def compile_text(
    kind: PipelineName, params: Params, profile: ClusterProfile, labels: Mapping[str, str] | None = None
) -> str:
    """A pipeline as the YAML that Kubeflow takes: PipelineSpec and PlatformSpec, the same on every machine."""
    return compiled(build_pipeline(kind, params, profile, labels))


def generated_files(params: Params) -> dict[Path, str]:
    """Every file that is made from the stages and committed, by its path in the repository."""
    profile = load_profile("nvidia")
    pipelines = {Path("pipelines") / f"{kind}.yaml": compile_text(kind, params, profile) for kind in PIPELINES}
    stages = [*STAGES.values(), *JOINS.values()]
    return pipelines | {Path("components") / f"{stage.name}.yaml": component_text(stage, params) for stage in stages}


def _common_parameters(params: Params, profile: ClusterProfile) -> Iterator[Port]:
    for stage in STAGES.values():
        for port, source in stage.inputs.items():
            if isinstance(source, Source):
                default = reduce(getattr, source.param.split("."), params)
                yield Port(port, str, "Raw data: a folder that the pods see, or s3://bucket/prefix.", default=default)
    raw_data = "Digest of the raw data: while it stays the same, they are not read again but taken from the cache."
    yield Port("raw_data", str, raw_data, default="")
    yield Port("code", str, "Digest of the package ctm, which the images must hold; empty: any.", default="")
    folder = profile.checkpoints.mount_path if profile.checkpoints else "/tmp/checkpoints"  # lost with the pod
    about = "Where the state of unfinished runs is kept: the folder of the mounted volume, or s3://bucket/prefix."
    yield Port("checkpoints", str, about, default=folder)


def _stage_parameters(params: Params) -> Iterator[Port]:
    for stage in STAGES.values():
        yield Port(f"{stage.name}_image", str, f"Image of {stage.command}, by digest: name@sha256:…")
        about = f"What {stage.command} reads of params.yaml; the text null stands for null."
        yield Port(stage.name, dict, about, default=struct_default(stage, params))


def _sources(stage: Stage, kind: type) -> Iterator[Any]:
    return (source for source in stage.inputs.values() if isinstance(source, kind))
