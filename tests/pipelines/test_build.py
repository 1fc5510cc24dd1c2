"""The pipelines: which tasks they have, what each is given, and what Kubeflow's cache compares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from components.factory import struct_default
from ctm.params import Params, load_preset
from ctm.stage import Parts, Ref, Source
from ctm.stages import JOINS, STAGES
from pipelines.build import PIPELINES, compile_text
from pipelines.check import check_package
from pipelines.options import PipelineName
from pipelines.profiles import ClusterProfile, load_profile
from pipelines.table8 import RUNS

LOOP = "comp-for-loop-1"


@pytest.fixture(scope="module")
def profile() -> ClusterProfile:
    return load_profile("nvidia")


@pytest.fixture(scope="module")
def compiled(params: Params, profile: ClusterProfile) -> dict[str, Any]:
    return {kind: next(yaml.safe_load_all(compile_text(kind, params, profile))) for kind in PIPELINES}


def root(document: Any) -> Any:
    return document["root"]["dag"]["tasks"]


def loop(document: Any) -> Any:
    return document["components"][LOOP]["dag"]["tasks"]


def stage_tasks(document: Any) -> Iterator[tuple[str, Any]]:
    """The tasks that are stages, wherever they are, by the stage's name."""
    for component in (document["root"], *document["components"].values()):
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            if name.replace("-", "_") in STAGES | JOINS:
                yield name.replace("-", "_"), task


@pytest.mark.parametrize("kind", ["ctm", "ctm_sweep"])
def test_every_input_comes_from_the_port_that_the_stage_names(kind: PipelineName, compiled: dict[str, Any]):
    checked = 0
    for name, task in stage_tasks(compiled[kind]):
        for port, source in STAGES[name].inputs.items():
            if isinstance(source, Ref):
                command = STAGES[source.stage].command
                inputs, outside = task["inputs"], f"pipelinechannel--{command}-{source.port}"
                assert inputs["artifacts"][port] in (
                    {"taskOutputArtifact": {"producerTask": command, "outputArtifactKey": source.port}},
                    {"componentInputArtifact": outside},
                )
                assert inputs["parameters"][f"{port}_digest"] in (
                    {"taskOutputParameter": {"producerTask": command, "outputParameterKey": f"{source.port}_digest"}},
                    {"componentInputParameter": f"{outside}_digest"},
                )
                checked += 1
    assert checked == sum(isinstance(source, Ref) for stage in STAGES.values() for source in stage.inputs.values())


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_cache_sees_contents_code_image_and_settings_of_every_stage(kind: PipelineName, compiled: dict[str, Any]):
    for name, task in stage_tasks(compiled[kind]):
        stage, given = (STAGES | JOINS)[name], task["inputs"]["parameters"]
        digests = {f"{port}_digest" for port, source in stage.inputs.items() if not isinstance(source, Source)}
        raw = {"raw", "raw_data"} if any(isinstance(s, Source) for s in stage.inputs.values()) else set()
        assert {*digests, *raw, "config", "code", "image", "checkpoints"} <= set(given)
        assert task["cachingOptions"] == {"enableCache": True}


@pytest.mark.parametrize("kind", PIPELINES)
def test_every_parameter_is_passed_on_even_where_it_has_a_default(kind: PipelineName, compiled: dict[str, Any]):
    """Kubeflow 2.17 fills no default into the arguments of a container: its driver refuses the task."""
    for name, task in stage_tasks(compiled[kind]):
        defined = compiled[kind]["components"][f"comp-{name.replace('_', '-')}"]["inputDefinitions"]["parameters"]
        assert set(defined) <= set(task["inputs"]["parameters"])


@pytest.mark.parametrize("kind", PIPELINES)
def test_every_task_runs_in_the_image_of_a_parameter(kind: PipelineName, compiled: dict[str, Any]):
    executors = compiled[kind]["deploymentSpec"]["executors"]
    images = {name: executor["container"]["image"] for name, executor in executors.items()}
    expected = {f"exec-{stage.command}": name for name, stage in STAGES.items()}
    expected |= {"exec-list-parts": "preprocess", "exec-compare-runs": "evaluate"}
    expected |= {f"exec-{join.command}": "extract_pseudomasks" for join in JOINS.values()}
    for executor, image in images.items():
        assert image == f"{{{{$.inputs.parameters['pipelinechannel--{expected[executor]}_image']}}}}"
    for name, task in stage_tasks(compiled[kind]):
        owner = expected[f"exec-{name.replace('_', '-')}"]
        assert task["inputs"]["parameters"]["image"]["componentInputParameter"].endswith(f"{owner}_image")


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_parameters_are_explained_and_have_the_defaults_of_params_yaml(
    kind: PipelineName, compiled: dict[str, Any], params: Params
):
    parameters = compiled[kind]["root"]["inputDefinitions"]["parameters"]
    assert not [name for name, about in parameters.items() if not about.get("description")]
    required = {name for name, about in parameters.items() if "defaultValue" not in about}
    assert required == {f"{name}_image" for name in STAGES}
    for name, stage in STAGES.items():
        assert parameters[name]["defaultValue"] == struct_default(stage, params)
    values = {name: about.get("defaultValue") for name, about in parameters.items()}
    assert values["raw"] == params.dataset.root
    assert (values["raw_data"], values["code"], values["checkpoints"]) == ("", "", "/checkpoints")
    assert values.get("parts") == (4 if kind == "ctm_fanout" else None)
    assert values.get("overrides") == (RUNS if kind == "ctm_sweep" else None)


def test_the_fan_out_runs_the_divisible_stage_once_for_each_part(compiled: dict[str, Any]):
    document = compiled["ctm_fanout"]
    assert set(loop(document)) == {"extract-pseudomasks"}
    assert root(document)["list-parts"]["inputs"]["parameters"]["count"] == {"componentInputParameter": "parts"}
    items = root(document)["for-loop-1"]["parameterIterator"]
    assert items["items"]["inputParameter"] == "pipelinechannel--list-parts-Output"
    part = loop(document)["extract-pseudomasks"]["inputs"]["parameters"]["part"]
    assert part == {"componentInputParameter": items["itemInput"]}


def test_what_was_made_in_parts_is_joined_before_anything_reads_it(compiled: dict[str, Any]):
    tasks = root(compiled["ctm_fanout"])
    joined = tasks["merge-pseudomasks"]["inputs"]
    loop, collected = {"producerTask": "for-loop-1"}, "pipelinechannel--extract-pseudomasks-pseudomasks"
    assert joined["artifacts"]["parts"]["taskOutputArtifact"] == loop | {"outputArtifactKey": collected}
    digests = joined["parameters"]["parts_digest"]["taskOutputParameter"]
    assert digests == loop | {"outputParameterKey": f"{collected}_digest"}
    for reader in ("train-segmenter", "evaluate"):
        inputs = tasks[reader]["inputs"]
        assert inputs["artifacts"]["pseudomasks"]["taskOutputArtifact"]["producerTask"] == "merge-pseudomasks"
        digest = inputs["parameters"]["pseudomasks_digest"]["taskOutputParameter"]
        assert digest == {"producerTask": "merge-pseudomasks", "outputParameterKey": "pseudomasks_digest"}


def test_a_join_reads_the_very_sections_of_the_stage_that_it_joins(compiled: dict[str, Any]):
    """So it has the struct that the parts had, whatever a run is started with."""
    for join in JOINS.values():
        (joined,) = (source.stage for source in join.inputs.values() if isinstance(source, Parts))
        assert list(join.config.model_fields) == list(STAGES[joined].config.model_fields)
        given = root(compiled["ctm_fanout"])[join.command]["inputs"]["parameters"]["config"]
        assert given == {"componentInputParameter": joined}


def test_the_sweep_preprocesses_once_and_hands_the_override_to_every_later_stage(compiled: dict[str, Any]):
    document = compiled["ctm_sweep"]
    assert set(root(document)) == {"preprocess", "for-loop-1", "compare-runs"}
    assert set(loop(document)) == {stage.command for stage in STAGES.values()} - {"preprocess"}
    iterator = root(document)["for-loop-1"]["parameterIterator"]
    assert iterator["items"]["inputParameter"] == "pipelinechannel--overrides"
    for task in loop(document).values():
        assert task["inputs"]["parameters"]["override"] == {"componentInputParameter": iterator["itemInput"]}
    assert root(document)["preprocess"]["inputs"]["parameters"]["override"] == {"runtimeValue": {"constant": ""}}


def test_the_sweep_ends_in_a_comparison_that_is_never_taken_from_the_cache(compiled: dict[str, Any]):
    task = root(compiled["ctm_sweep"])["compare-runs"]
    assert task["inputs"]["parameters"]["names"] == {"componentInputParameter": "overrides"}
    metrics = task["inputs"]["artifacts"]["metrics"]["taskOutputArtifact"]
    assert metrics == {"producerTask": "for-loop-1", "outputArtifactKey": "pipelinechannel--evaluate-metrics"}
    assert not task["cachingOptions"].get("enableCache")


def test_table_8_is_a_list_of_overrides_that_the_parameters_take():
    weights = [load_preset("demo", [override]).train_classifier.pruning_weight for override in RUNS]
    assert weights == [0, 0.001, 0.01, 0.1]


def test_labels_are_put_on_every_pod(params: Params, profile: ClusterProfile):
    text = compile_text("ctm_fanout", params, profile, {"ctm/git": "abc", "ctm/raw-data": "0" * 63})
    spec, platform = yaml.safe_load_all(text)
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(pods) == set(spec["deploymentSpec"]["executors"])
    assert all(pod["podMetadata"]["labels"] == {"ctm/git": "abc", "ctm/raw-data": "0" * 63} for pod in pods.values())
    assert check_package(text, allow_tags=False) == []
