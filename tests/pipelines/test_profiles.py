"""Profiles: what is in the file reaches the pods, and what is wrong in it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import MessageToDict, ParseDict
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec, PlatformSpec

from ctm.params import Params
from ctm.stage import Profile
from ctm.stages import STAGES
from pipelines.build import PIPELINES, compile_text
from pipelines.check import check_package
from pipelines.errors import PipelineError
from pipelines.options import PipelineName
from pipelines.profiles import PROFILES, load_profile, load_trainjob

CLUSTERS = list(yaml.safe_load(PROFILES.read_text(encoding="utf-8"))["clusters"])
GPU_STAGES = [name for name, stage in STAGES.items() if stage.profile is Profile.GPU]
CPU_STAGES = [name for name, stage in STAGES.items() if stage.profile is Profile.CPU]


class Compiled:
    """A package, read as the protos that it must be."""

    def __init__(self, text: str) -> None:
        pipeline, platform = yaml.safe_load_all(text)
        self.spec = ParseDict(pipeline, PipelineSpec())
        self.executors = ParseDict(MessageToDict(self.spec.deployment_spec), PipelineDeploymentConfig()).executors
        self.pods = ParseDict(platform, PlatformSpec()).platforms["kubernetes"].deployment_spec.executors

    def resources(self, stage: str) -> Any:
        return self.executors[f"exec-{STAGES[stage].command}"].container.resources

    def environment(self, stage: str) -> dict[str, str]:
        container = self.executors[f"exec-{STAGES[stage].command}"].container
        return {variable.name: variable.value for variable in container.env}

    def pod(self, stage: str) -> KubernetesExecutorConfig:
        struct = MessageToDict(self.pods[f"exec-{STAGES[stage].command}"])
        return ParseDict(struct, KubernetesExecutorConfig())


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_profile_compiles_and_gpu_stages_have_what_they_need(cluster: str, kind: PipelineName, params: Params):
    profile = load_profile(cluster)
    text = compile_text(kind, params, profile)
    assert check_package(text, allow_tags=False) == []
    package = Compiled(text)
    for stage in GPU_STAGES:
        resources, pod = package.resources(stage), package.pod(stage)
        accelerator = (resources.accelerator.resource_type, resources.accelerator.resource_count)
        assert accelerator == (profile.gpu.accelerator, "1")
        assert resources.resource_cpu_limit == profile.gpu.cpu_limit
        assert resources.resource_memory_limit == profile.gpu.memory_limit
        assert dict(pod.node_selector.labels) == profile.gpu.node_selector != {}
        tolerations = [(t.key, t.operator, t.value or None, t.effect) for t in pod.tolerations]
        assert tolerations == [(t.key, t.operator, t.value, t.effect) for t in profile.gpu.tolerations] != []
        (shm,) = pod.empty_dir_mounts
        assert (shm.mount_path, shm.medium, shm.size_limit) == ("/dev/shm", "Memory", profile.gpu.shared_memory)
        assert pod.active_deadline_seconds == profile.gpu.timeout_hours * 3600
    for stage in CPU_STAGES:
        assert package.resources(stage).resource_memory_request == profile.cpu.memory_request
        assert not package.resources(stage).HasField("accelerator")
        assert not package.pod(stage).tolerations


def test_retries_volume_secrets_and_the_runs_id_reach_the_pods(params: Params):
    package = Compiled(compile_text("ctm", params, load_profile("nvidia")))
    retry = package.spec.root.dag.tasks["train-classifier"].retry_policy
    assert (retry.max_retry_count, retry.backoff_duration.seconds, retry.backoff_factor) == (2, 60, 2.0)
    pod = package.pod("train_classifier")
    assert [(m.constant, m.mount_path) for m in pod.pvc_mount] == [("ctm-checkpoints", "/checkpoints")]
    (secret,) = pod.secret_as_env
    assert (secret.secret_name, secret.optional) == ("ctm-s3", True)
    assert {entry.secret_key: entry.env_var for entry in secret.key_to_env}["access_key"] == "AWS_ACCESS_KEY_ID"
    assert [(e.name, e.field_path) for e in pod.field_path_as_env] == [("CTM_RUN", "metadata.labels['pipeline/runid']")]


def test_what_a_profile_leaves_out_is_not_asked_for(tmp_path: Path, params: Params):
    needs = "{cpu_request: 1, cpu_limit: 2, memory_request: 1Gi, memory_limit: 1Gi, timeout_hours: 0.5}"
    file = tmp_path / "mine.yaml"
    file.write_text(f"clusters: {{bare: {{cpu: {needs}, gpu: {needs}}}}}")
    package = Compiled(compile_text("ctm", params, load_profile("bare", file)))
    pod, task = package.pod("train_classifier"), package.spec.root.dag.tasks["train-classifier"]
    assert {about.name for about, _ in pod.ListFields()} == {"field_path_as_env", "active_deadline_seconds"}
    assert not task.HasField("retry_policy")
    assert pod.active_deadline_seconds == 1800


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpus": 1}, r"clusters\.a\.gpu\.gpus: Extra inputs are not permitted"),
        ({"cpu_limit": "four"}, r"clusters\.a\.gpu\.cpu_limit: String should match .* \(found 'four'\)"),
        ({"memory_limit": "16GB"}, r"clusters\.a\.gpu\.memory_limit: String should match .* \(found '16GB'\)"),
        ({"accelerator": "nvidia.com/gpu"}, r"clusters\.a\.gpu: .*give both accelerator and accelerators"),
        ({"tolerations": [{"key": "x", "effect": "NoWay"}]}, r"tolerations\.0\.effect: .*'NoSchedule'"),
        ({"timeout_hours": 0}, r"timeout_hours: Input should be greater than 0"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_place(change: dict[str, Any], message: str, tmp_path: Path):
    needs = load_profile("nvidia").cpu.model_dump()
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"clusters": {"a": {"cpu": needs, "gpu": needs | change}}}))
    with pytest.raises(PipelineError, match=message):
        load_profile("a", file)


def test_an_unknown_profile_and_a_file_that_is_missing_or_no_yaml_are_named(tmp_path: Path):
    with pytest.raises(PipelineError, match=rf"no profile 'azure'; profiles there: {', '.join(CLUSTERS)}\."):
        load_profile("azure")
    with pytest.raises(PipelineError, match=r"none\.yaml: no such file of profiles"):
        load_profile("nvidia", tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("clusters: [")
    with pytest.raises(PipelineError, match=r"bad\.yaml: cannot be read as YAML"):
        load_profile("nvidia", tmp_path / "bad.yaml")


def test_the_trainjob_has_a_section_of_its_own(tmp_path: Path):
    trainjob = load_trainjob()
    assert (trainjob.runtime, trainjob.nodes, trainjob.processes_per_node) == ("torch-distributed", 1, 1)
    (tmp_path / "mine.yaml").write_text("clusters: {}")
    with pytest.raises(PipelineError, match="no section `trainjob`"):
        load_trainjob(tmp_path / "mine.yaml")


@pytest.mark.parametrize("kind", PIPELINES)
def test_a_stage_that_runs_as_several_processes_gets_all_gpus_of_the_profile_and_others_one(
    kind: PipelineName, params: Params
):
    profile = load_profile("nvidia")
    four = profile.model_copy(update={"gpu": profile.gpu.model_copy(update={"accelerators": 4})})
    text = compile_text(kind, params, four)
    assert check_package(text, allow_tags=False) == []
    package = Compiled(text)
    for stage in GPU_STAGES:
        several = STAGES[stage].distributed
        assert package.resources(stage).accelerator.resource_count == ("4" if several else "1")
        assert package.environment(stage).get("CTM_NPROC") == ("4" if several else None)
    assert {stage for stage in GPU_STAGES if STAGES[stage].distributed} >= {"train_classifier", "train_segmenter"}
