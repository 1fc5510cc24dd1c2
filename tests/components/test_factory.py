"""A component is what its stage says: ports, types, defaults, and arguments that the command line takes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from components.factory import IMAGES, component_text, stage_component, struct_default
from ctm.cli import app
from ctm.kubeflow import decode_nulls
from ctm.params import Params, load_preset, stage_config
from ctm.stage import Config, Kind, Metrics, Output, Parts, Profile, Ref, Source, Stage
from ctm.stages import JOINS, STAGES

ALL = STAGES | JOINS
PLACEHOLDER = re.compile(
    r"\{\{\$\.(?P<side>inputs|outputs)\.(?P<kind>parameters|artifacts)\['(?P<name>\w+)'\](\.path)?\}\}"
)
every_stage = pytest.mark.parametrize("stage", ALL.values(), ids=list(ALL))


@pytest.fixture(scope="module")
def params() -> Params:
    return load_preset("demo")


def spec(stage: Stage, params: Params) -> Any:
    """The component as the YAML has it: interface and container."""
    document = yaml.safe_load(component_text(stage, params))
    container = document["deploymentSpec"]["executors"][f"exec-{stage.command}"]["container"]
    return document["components"][f"comp-{stage.command}"] | {"container": container}


@every_stage
def test_inputs_and_outputs_are_the_ports_of_the_stage(stage: Stage, params: Params):
    component = spec(stage, params)
    artifacts, outputs = component["inputDefinitions"].get("artifacts", {}), component["outputDefinitions"]
    parameters = component["inputDefinitions"]["parameters"]
    from_stages = {name for name, source in stage.inputs.items() if not isinstance(source, Source)}
    assert set(artifacts) == from_stages
    assert {f"{name}_digest" for name in from_stages} == {name for name in parameters if name.endswith("_digest")}
    assert {name for name, about in artifacts.items() if about.get("isArtifactList")} == {
        name for name, source in stage.inputs.items() if isinstance(source, Parts)
    }
    for name in from_stages:
        kind = "LIST" if isinstance(stage.inputs[name], Parts) else "STRING"
        assert parameters[f"{name}_digest"]["parameterType"] == kind
    reads_raw = any(isinstance(source, Source) for source in stage.inputs.values())
    assert "raw_data" in parameters
    assert ("raw" in parameters) == reads_raw
    assert ("part" in parameters) == stage.divisible
    assert {"config", "override", "code", "image", "checkpoints"} <= set(parameters)
    assert set(outputs["artifacts"]) == {*stage.outputs, "metrics", "manifest"}
    assert set(outputs["parameters"]) == {f"{name}_digest" for name in stage.outputs}


@every_stage
def test_an_input_has_the_type_of_the_output_that_it_reads(stage: Stage, params: Params):
    def types(component: Any, side: str) -> Any:
        return {name: about["artifactType"] for name, about in component[side].get("artifacts", {}).items()}

    read = types(spec(stage, params), "inputDefinitions")
    for name, source in stage.inputs.items():
        if not isinstance(source, Source):
            assert read[name] == types(spec(ALL[source.stage], params), "outputDefinitions")[source.port]


@every_stage
def test_every_port_is_explained(stage: Stage, params: Params):
    component = spec(stage, params)
    for side in ("inputDefinitions", "outputDefinitions"):
        for ports in component[side].values():
            assert not [name for name, about in ports.items() if not about.get("description")]


@every_stage
def test_the_command_line_takes_the_arguments_and_gets_every_port(stage: Stage, params: Params):
    component = spec(stage, params)
    parameters = component["inputDefinitions"]["parameters"]
    values = {name: about.get("defaultValue", "x") for name, about in parameters.items()}
    values |= {"part": "2/3"} if stage.divisible else {}

    def filled(found: re.Match[str]) -> str:
        if found["kind"] == "artifacts":
            return f"/{found['side']}/{found['name']}"
        return str(values[found["name"]])

    command, *arguments = [PLACEHOLDER.sub(filled, argument) for argument in component["container"]["args"]]
    assert component["container"]["command"] == ["ctm-entrypoint"]
    assert not [argument for argument in arguments if "{{" in argument and argument != "{{$}}"]
    context = typer.main.get_command(app).commands[command].make_context(command, arguments)  # type: ignore[attr-defined]
    for name, source in stage.inputs.items():
        expected = {Source: "x", Ref: f"/inputs/{name}", Parts: []}[type(source)]
        given = context.params[name]
        assert (given if isinstance(source, Parts | Source) else str(given)) == expected
    for name in [*stage.outputs, "metrics", "manifest"]:
        assert str(context.params[name]) == f"/outputs/{name}"
    assert context.params.get("part") == values.get("part")
    assert context.params["executor_input"] == "{{$}}"
    assert {"code=", "image="} <= set(context.params["labels"])


@every_stage
def test_the_default_struct_is_the_stages_sections_without_a_null(stage: Stage, params: Params):
    default = spec(stage, params)["inputDefinitions"]["parameters"]["config"]["defaultValue"]
    assert default == struct_default(stage, params)
    assert "null" in yaml.safe_dump(struct_default(STAGES["preprocess"], params))
    assert stage.config.model_validate(decode_nulls(default)) == stage_config(params, stage.config)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (Output(Kind.DATASET, "artifacts/x"), "system.Dataset"),
        (Output(Kind.MODEL, "artifacts/x"), "system.Model"),
        (Output(Kind.CONFUSION, "report/x.json"), "system.ClassificationMetrics"),
        (Output(Kind.REPORT, "report/x.html"), "system.HTML"),
        (Output(Kind.REPORT, "report/x.png"), "system.Artifact"),
    ],
)
def test_an_output_has_the_type_that_kubeflow_shows(output: Output, expected: str, params: Params):
    outputs = spec(invented(outputs={"thing": output}), params)["outputDefinitions"]["artifacts"]
    assert outputs["thing"]["artifactType"]["schemaTitle"] == expected
    assert outputs["metrics"]["artifactType"]["schemaTitle"] == "system.Metrics"


@pytest.mark.parametrize("profile", Profile)
def test_the_image_is_the_one_that_is_built_for_the_profile(profile: Profile, params: Params):
    assert spec(invented(profile=profile), params)["container"]["image"] == IMAGES[profile]


def test_a_port_cannot_have_the_name_of_a_parameter_of_every_component(params: Params):
    def run(config: Config, context: Any, *, shards: Path, image: Path) -> Metrics:
        return {}

    with pytest.raises(ValueError, match="duplicate parameter name: 'image'"):
        stage_component(invented(run=run, outputs={"image": THING}), params)


THING = Output(Kind.DATASET, "artifacts/thing")


class NoConfig(Config):
    """Reads nothing."""


def invented(**changes: Any) -> Stage:
    """A stage that reads the shards and writes one thing."""

    def run(config: Config, context: Any, *, shards: Path, thing: Path) -> Metrics:
        return {}

    inputs = {"shards": Ref("preprocess", "shards")}
    stage = Stage("invent", "Invent a thing.", NoConfig, run, inputs, {"thing": THING}, Profile.CPU)
    return dataclasses.replace(stage, **changes)
