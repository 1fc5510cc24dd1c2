"""A stage as a TrainJob of Kubeflow Trainer v2: one training over several processes or nodes, outside of a pipeline."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

import yaml

from components.factory import ENTRYPOINT
from ctm.fingerprint import package_digest
from ctm.params import Params, stage_config
from ctm.stage import Source, Stage
from ctm.stages import STAGES
from pipelines.errors import PipelineError
from pipelines.profiles import TrainJobProfile
from pipelines.raw_data import cluster_path

__all__ = ["make_trainjob", "stage_named", "trainjob_text"]

NODE = "node"
"""Name of the job and of the container that Trainer's own runtimes train in."""

HEADER = "# Made by `ctm-pipeline trainjob {command}`. Start it with `kubectl create -f` where the claim is.\n"


def stage_named(name: str) -> Stage:
    """A stage by its name, with ``-`` or ``_``.

    Raises:
        PipelineError: there is none.
    """
    stage = STAGES.get(name.replace("-", "_"))
    if stage is None:
        raise PipelineError(f"no stage {name!r}. Stages: {', '.join(known.command for known in STAGES.values())}.")
    return stage


def make_trainjob(
    stage: Stage,
    params: Params,
    profile: TrainJobProfile,
    *,
    image: str,
    raw: str | None = None,
) -> dict[str, Any]:
    """The manifest of a TrainJob.

    Inputs, outputs, metrics and checkpoints lie on the profile's claim, under the paths that they have in a working
    tree: a claim with a copy of ``artifacts/`` has all that a stage reads.

    Raises:
        PipelineError: the stage reads raw data that the cluster cannot reach, or runs as one process alone.
    """
    processes = profile.nodes * profile.processes_per_node
    if processes > 1 and not stage.distributed:
        several = ", ".join(known.command for known in STAGES.values() if known.distributed)
        raise PipelineError(
            f"{stage.command} runs as one process, and the profile trainjob asks for {processes} (nodes x "
            f"processes_per_node). Stages that run as several: {several}."
        )
    resources: dict[str, Any] = {"cpu": profile.cpu, "memory": profile.memory}
    if profile.accelerator:
        resources[profile.accelerator] = str(profile.accelerators_per_node)
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": f"ctm-{stage.command}", "labels": {"app.kubernetes.io/part-of": "ctm"}},
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "ClusterTrainingRuntime",
                "name": profile.runtime,
            },
            "trainer": {
                "image": image,
                "command": list(ENTRYPOINT),  # starts torchrun with what Trainer sets for it
                "args": _arguments(stage, params, profile, image=image, raw=raw),
                "numNodes": profile.nodes,
                "numProcPerNode": profile.processes_per_node,
                "resourcesPerNode": {"requests": resources, "limits": resources},
            },
            "runtimePatches": [{"manager": "ctm", "trainingRuntimeSpec": _patch(profile)}],
        },
    }


def trainjob_text(stage: Stage, manifest: dict[str, Any]) -> str:
    """The manifest as YAML."""
    return HEADER.format(command=stage.command) + yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=10**6)


class _Dumper(yaml.SafeDumper):
    """Writes the same thing twice where YAML would write a reference to it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _arguments(stage: Stage, params: Params, profile: TrainJobProfile, *, image: str, raw: str | None) -> list[str]:
    """The stage's command line, with every path on the claim."""
    root = PurePosixPath(profile.mount_path)
    words: dict[str, str] = {"config": json.dumps(stage_config(params, stage.config).model_dump(mode="json"))}
    for port, source in stage.inputs.items():
        if isinstance(source, Source):
            words[port] = cluster_path(params.dataset.root, raw)
        else:
            words[port] = str(root / STAGES[source.stage].outputs[source.port].path)
    words |= {port: str(root / output.path) for port, output in stage.outputs.items()}
    words |= {"metrics": str(root / stage.metrics.as_posix()), "checkpoints": str(root / "checkpoints")}
    options = [part for name, value in words.items() for part in (f"--{name.replace('_', '-')}", value)]
    labels = {"image": image, "code": package_digest()}
    options += [part for name, value in labels.items() for part in ("--label", f"{name}={value}")]
    return [stage.command, *(option.replace("$(", "$$(") for option in options)]  # Kubernetes fills in $(NAME)


def _patch(profile: TrainJobProfile) -> dict[str, Any]:
    """What the runtime's pods get beside what it says itself: the claim, and memory that processes share."""
    pod: dict[str, Any] = {
        "securityContext": {"fsGroup": 0},  # the group of the images' user, which may then write to the claim
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": profile.claim}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
        "containers": [
            {
                "name": NODE,
                "volumeMounts": [
                    {"name": "work", "mountPath": profile.mount_path},
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
            }
        ],
    }
    if profile.accelerator:
        pod["tolerations"] = [{"key": profile.accelerator, "operator": "Exists", "effect": "NoSchedule"}]
    if profile.service_account:
        pod["serviceAccountName"] = profile.service_account
    job = {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}
