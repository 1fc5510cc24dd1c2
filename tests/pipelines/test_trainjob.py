"""TrainJobs: the manifest satisfies Kubeflow Trainer's own models, and its command line is the stage's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from ctm.cli import app as ctm_app
from ctm.params import load_preset, stage_config
from ctm.stage import Source
from ctm.stages import STAGES
from pipelines.errors import PipelineError
from pipelines.profiles import TrainJobProfile, load_trainjob
from pipelines.trainjob import make_trainjob, trainjob_text
from tests.pipelines.conftest import IMAGE, Call, Tree

models = pytest.importorskip("kubeflow_trainer_api.models", reason="needs the extra 'test'")

PROFILE = load_trainjob()
WIDE = PROFILE.model_copy(update={"nodes": 4, "processes_per_node": 8, "service_account": "trainer"})


def manifest(stage: str, profile: TrainJobProfile = PROFILE) -> dict[str, Any]:
    """The manifest as a cluster reads it from the file."""
    job = make_trainjob(STAGES[stage], load_preset("demo"), profile, image=IMAGE, raw="/workspace/data/demo")
    loaded: dict[str, Any] = yaml.safe_load(trainjob_text(STAGES[stage], job))
    return loaded


def unknown_fields(job: dict[str, Any]) -> list[str]:
    """Fields that the models would leave out in silence, as the cluster would."""
    return differences(job, models.TrainerV1alpha1TrainJob.from_dict(job).to_dict(), "")


def differences(written: Any, read: Any, place: str) -> list[str]:
    if isinstance(written, dict) and isinstance(read, dict):
        return [d for key in written for d in differences(written[key], read.get(key), f"{place}.{key}")]
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = enumerate(zip(written, read, strict=True))
        return [d for number, (a, b) in pairs for d in differences(a, b, f"{place}[{number}]")]
    return [] if written == read else [f"{place}: {written!r} was read as {read!r}"]


DISTRIBUTED = [name for name, stage in STAGES.items() if stage.distributed]


@pytest.mark.parametrize(
    ("stage", "profile"), [*((name, PROFILE) for name in STAGES), *((name, WIDE) for name in DISTRIBUTED)]
)
def test_trainers_own_models_read_every_field(stage: str, profile: TrainJobProfile):
    assert unknown_fields(manifest(stage, profile)) == []


@pytest.mark.parametrize("stage", [name for name in STAGES if name not in DISTRIBUTED])
def test_a_stage_of_one_process_is_refused_as_several(stage: str):
    with pytest.raises(PipelineError, match=r"runs as one process, and the profile trainjob asks for 32 .*train-class"):
        manifest(stage, WIDE)


def test_a_field_that_trainer_does_not_know_would_be_found():
    wrong = manifest("train_classifier")
    wrong["spec"]["podTemplateOverrides"] = [{"targetJobs": [{"name": "node"}]}]
    assert unknown_fields(wrong)
    wrong["spec"]["trainer"]["numNodes"] = "two"
    with pytest.raises(ValueError, match="valid integer"):
        models.TrainerV1alpha1TrainJob.from_dict(wrong)


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_line_is_one_that_ctm_takes_with_every_port_on_the_claim(stage: str):
    trainer = manifest(stage)["spec"]["trainer"]
    assert trainer["command"] == ["ctm-entrypoint"]
    command, *arguments = trainer["args"]
    assert command == STAGES[stage].command
    taken = get_command(ctm_app).commands[command].make_context(command, [*arguments]).params  # type: ignore[attr-defined]
    for port, source in STAGES[stage].inputs.items():
        raw = isinstance(source, Source)
        expected = "/workspace/data/demo" if raw else STAGES[source.stage].outputs[source.port].path
        assert str(taken[port]) == str(Path(PROFILE.mount_path, expected))
    for port, output in STAGES[stage].outputs.items():
        assert taken[port] == Path(PROFILE.mount_path, output.path)
    assert str(taken["checkpoints"]) == f"{PROFILE.mount_path}/checkpoints"
    assert f"image={IMAGE}" in arguments
    config = stage_config(load_preset("demo"), STAGES[stage].config)
    assert json.loads(taken["config"]) == config.model_dump(mode="json")


def test_nodes_processes_and_resources_are_the_profiles():
    spec = manifest("train_segmenter", WIDE)["spec"]
    assert (spec["trainer"]["numNodes"], spec["trainer"]["numProcPerNode"]) == (4, 8)
    wanted = {"cpu": PROFILE.cpu, "memory": PROFILE.memory, "nvidia.com/gpu": "1"}
    assert spec["trainer"]["resourcesPerNode"] == {"requests": wanted, "limits": wanted}
    assert spec["runtimeRef"]["name"] == PROFILE.runtime
    [job] = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer"
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"work": PROFILE.mount_path, "shm": "/dev/shm"}
    assert [volume["name"] for volume in pod["volumes"]] == list(mounts)
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == PROFILE.claim


def test_a_profile_without_accelerator_asks_for_none():
    bare = PROFILE.model_copy(update={"accelerator": None, "accelerators_per_node": 0})
    text = trainjob_text(STAGES["preprocess"], manifest("preprocess", bare))
    assert "gpu" not in text
    assert "tolerations" not in text


def test_a_dollar_in_a_parameter_is_none_of_kubernetes_variables():
    params = load_preset("demo", ["dataset.background=null", "dataset.classes=['$(HOME)', b]"])
    job = make_trainjob(STAGES["preprocess"], params, PROFILE, image=IMAGE, raw="/workspace/x")
    assert '"$$(HOME)"' in " ".join(job["spec"]["trainer"]["args"])


def test_the_command_prints_it(tree: Tree, succeed: Call):
    arguments = ("trainjob", "train-classifier", "--image", IMAGE, "--set", "train_classifier.epochs=3")
    printed = yaml.safe_load(succeed(*arguments))
    assert printed["kind"] == "TrainJob"
    assert printed["metadata"]["name"] == "ctm-train-classifier"
    assert '"epochs": 3' in printed["spec"]["trainer"]["args"][2]


def test_wrong_stages_images_and_places_are_named(tree: Tree, fail: Call):
    assert "no stage 'train'. Stages: preprocess, train-classifier" in fail("trainjob", "train", "--image", IMAGE)
    assert "by tag" in fail("trainjob", "evaluate", "--image", "ctm-train:v1")
    assert "which the cluster cannot read" in fail("trainjob", "preprocess", "--image", IMAGE)
    (tree.root / "mine.yaml").write_text(
        "trainjob: {runtime: r, nodes: 1, processes_per_node: 1, cpu: 1, memory: 8GiB}"
    )
    message = fail("trainjob", "evaluate", "--image", IMAGE, "--profiles", "mine.yaml")
    assert "trainjob.memory" in message
    assert "8GiB" in message
