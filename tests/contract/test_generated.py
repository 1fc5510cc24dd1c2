"""The committed definitions of Kubeflow are what the stages and params.yaml say, and have the edges of dvc.yaml."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.components import load_component_from_file

from ctm.params import Params, load_params
from ctm.stage import Config, Kind, Metrics, Output, Ref, Source
from ctm.stages import JOINS, STAGES
from pipelines.build import PIPELINES, generated_files
from pipelines.check import check_package

IN_PIPELINES = [f"pipelines/{name}.yaml" for name in ("ctm", "ctm_fanout", "ctm_sweep")]
NAMES = [*IN_PIPELINES, *(f"components/{name}.yaml" for name in STAGES | JOINS)]


@pytest.fixture(scope="module")
def params(repository: Path) -> Params:
    return load_params(repository / "params.yaml")


@pytest.fixture(scope="module")
def generated(params: Params) -> dict[str, str]:
    return texts(params)


def texts(params: Params) -> dict[str, str]:
    return {path.as_posix(): text for path, text in generated_files(params).items()}


def test_every_stage_and_every_pipeline_has_a_file_and_there_is_no_other(repository: Path, generated: dict[str, str]):
    assert sorted(generated) == sorted(NAMES)
    on_disk = {f"components/{file.name}" for file in (repository / "components").glob("*.yaml")}
    on_disk |= {f"pipelines/{file.name}" for file in (repository / "pipelines").glob("ctm*.yaml")}
    assert on_disk == set(generated), "run `make pipeline`, and remove what no stage writes any more"


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_file_is_up_to_date(name: str, repository: Path, generated: dict[str, str]):
    current = (repository / name).read_text(encoding="utf-8")
    assert current == generated[name], f"{name} is not what the stages say: run `make pipeline` and commit the result"


@pytest.mark.parametrize("name", NAMES)
def test_kfp_loads_the_file_and_the_checker_finds_nothing(name: str, repository: Path):
    file = repository / name
    loaded, text = load_component_from_file(str(file)), file.read_text(encoding="utf-8")
    about = {kind: plan.about for kind, plan in PIPELINES.items()}
    about |= {stage.name: stage.summary for stage in (STAGES | JOINS).values()}
    assert text.startswith("# Generated from ctm/stages by `ctm-pipeline compile`. Do not edit")
    assert loaded.name == file.stem.replace("_", "-")
    assert loaded.description == about[file.stem]
    assert check_package(text, allow_tags=file.parent.name == "components") == []


def test_a_changed_default_changes_the_files_of_the_stages_that_read_it(repository: Path, generated: dict[str, str]):
    changed = texts(load_params(repository / "params.yaml", ["prune_heads.check_images=7"]))
    different = {name for name in NAMES if changed[name] != generated[name]}
    readers = [name for name, stage in (STAGES | JOINS).items() if "prune_heads" in stage.config.model_fields]
    assert readers
    assert different == {*IN_PIPELINES, *(f"components/{name}.yaml" for name in readers)}


def test_a_new_port_changes_the_files_of_its_stage(
    params: Params, generated: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    def run(config: Config, context: Any, *, shards: Path, classifier: Path, pruned: Path, chart: Path) -> Metrics:
        return {}

    stage = STAGES["prune_heads"]
    outputs = {**stage.outputs, "chart": Output(Kind.REPORT, "report/chart.html")}
    monkeypatch.setitem(STAGES, "prune_heads", dataclasses.replace(stage, run=run, outputs=outputs))
    changed = texts(params)
    different = {name for name in NAMES if changed[name] != generated[name]}
    assert different == {"components/prune_heads.yaml", *IN_PIPELINES}


def test_the_compiled_pipeline_has_the_edges_and_the_outside_inputs_of_dvc_yaml(repository: Path):
    stages = yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    written = {path: name for name, entry in stages.items() for path in entry["outs"]}
    dvc = {(written[path], path, name) for name, entry in stages.items() for path in entry["deps"] if path in written}

    spec = next(yaml.safe_load_all((repository / "pipelines/ctm.yaml").read_text(encoding="utf-8")))
    tasks = {name.replace("-", "_"): task for name, task in spec["root"]["dag"]["tasks"].items()}
    kubeflow = set()
    for name, task in tasks.items():
        for source in task["inputs"].get("artifacts", {}).values():
            output = source["taskOutputArtifact"]
            producer = output["producerTask"].replace("-", "_")
            kubeflow.add((producer, STAGES[producer].outputs[output["outputArtifactKey"]].path, name))
    assert list(stages) == list(STAGES)
    assert set(tasks) == set(stages)
    assert kubeflow == dvc
    waits = {
        (before.replace("-", "_"), name) for name, task in tasks.items() for before in task.get("dependentTasks", ())
    }
    assert waits == {(producer, name) for producer, _, name in dvc}

    outside = [(n, port, s) for n, stage in STAGES.items() for port, s in stage.inputs.items() if isinstance(s, Source)]
    for name, port, source in outside:
        assert f"${{{source.param}}}" in stages[name]["deps"]
        assert tasks[name]["inputs"]["parameters"][port] == {"componentInputParameter": port}


def test_the_picture_of_the_pipeline_in_the_readme_has_the_edges_of_the_stages(repository: Path):
    drawn = re.findall(r"^    (\w+) -->\|(\w+)\| (\w+)$", (repository / "README.md").read_text(encoding="utf-8"), re.M)
    edges = [
        (source.stage, source.port, stage.name)
        for stage in STAGES.values()
        for source in stage.inputs.values()
        if isinstance(source, Ref)
    ]
    assert drawn == edges
