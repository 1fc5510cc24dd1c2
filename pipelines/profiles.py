"""What the tasks of a pipeline ask of a cluster, read from ``profiles.yaml``: where they run and with what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from kfp import kubernetes
from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from ctm.stage import Config, Profile
from pipelines.errors import PipelineError

__all__ = ["ClusterProfile", "TrainJobProfile", "apply", "load_profile", "load_trainjob"]

PROFILES = Path(__file__).with_name("profiles.yaml")

RUN_ID = ("CTM_RUN", "metadata.labels['pipeline/runid']")
"""Environment variable with the run's id, and where a pod has it. As a parameter it would make every cache entry miss,
and in the arguments Kubeflow does not fill it in."""

PROCESSES = "CTM_NPROC"
"""Environment variable that tells a container's entrypoint how many processes to start."""

Cpu = Annotated[str, BeforeValidator(str), StringConstraints(pattern=r"^(\d*\.)?\d+m?$")]
"""Cores, such as 4 or 500m."""

Memory = Annotated[str, BeforeValidator(str), StringConstraints(pattern=r"^\d+(Ki|Mi|Gi|Ti|M|G|T)?$")]
"""Bytes, such as 16Gi."""


class Toleration(Config):
    """A taint that does not keep a task away from a node."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Null: every effect."""


class Needs(Config):
    """What one task asks for."""

    cpu_request: Cpu
    cpu_limit: Cpu
    memory_request: Memory
    memory_limit: Memory
    accelerator: str | None = None
    """Name of the resource, such as nvidia.com/gpu."""
    accelerators: Annotated[int, Field(ge=0)] = 0
    """How many of it a stage gets that runs as several processes, one for each; others get one."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: list[Toleration] = Field(default_factory=list)
    shared_memory: Memory | None = None
    """Size of /dev/shm, which is memory; null: what the node gives, often 64 MB."""
    retries: Annotated[int, Field(ge=0)] = 0
    """How often a failed task is started again; it goes on from its checkpoint."""
    backoff_seconds: Annotated[int, Field(ge=0)] = 60
    """Wait before the first retry, twice as long before each further one."""
    timeout_hours: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _accelerator_is_counted(self) -> Needs:
        if bool(self.accelerator) != bool(self.accelerators):
            raise ValueError("give both accelerator and accelerators (1 or more), or neither")
        return self

    def of_one_process(self) -> Needs:
        """What a stage asks for that runs as one process."""
        return self.model_copy(update={"accelerators": min(1, self.accelerators)})


class CheckpointClaim(Config):
    """A persistent volume that outlives a pod, for the state of unfinished runs."""

    claim: Annotated[str, Field(min_length=1)]
    mount_path: Annotated[str, Field(pattern="^/.")]


class Secret(Config):
    """A Kubernetes secret whose values a task finds in its environment."""

    name: Annotated[str, Field(min_length=1)]
    optional: bool = False
    """True: a task starts without it, too."""
    env: dict[str, str]
    """Key in the secret: name of the environment variable."""


class ClusterProfile(Config):
    """One cluster."""

    cpu: Needs
    """What stages without a GPU ask for."""
    gpu: Needs
    """What stages with a GPU ask for."""
    checkpoints: CheckpointClaim | None = None
    """Null: no volume. Then give checkpoints=s3://bucket/prefix to a run, or a killed task starts from nothing."""
    secrets: list[Secret] = Field(default_factory=list)
    service_account: str | None = None
    """Kubernetes service account of the pods, set when a run is submitted; null: the server's choice."""

    def needs(self, profile: Profile) -> Needs:
        """What a stage with this profile asks for."""
        return self.gpu if profile is Profile.GPU else self.cpu


class TrainJobProfile(Config):
    """A training over several nodes with Kubeflow Trainer."""

    runtime: str
    """Name of the ClusterTrainingRuntime."""
    nodes: Annotated[int, Field(ge=1)]
    processes_per_node: Annotated[int, Field(ge=1)]
    cpu: Cpu
    memory: Memory
    accelerator: str | None = None
    accelerators_per_node: Annotated[int, Field(ge=0)] = 0
    claim: Annotated[str, Field(min_length=1)]
    """Persistent volume with inputs, outputs and checkpoints."""
    mount_path: Annotated[str, Field(pattern="^/.")]
    service_account: str | None = None


class Profiles(Config):
    """A file of profiles."""

    clusters: dict[str, ClusterProfile] = Field(default_factory=dict)
    trainjob: TrainJobProfile | None = None


def load_profile(name: str, path: Path | None = None) -> ClusterProfile:
    """The profile of a cluster, from a file of the user's or from those that come with ctm.

    Raises:
        PipelineError: there is no such profile or file, or something in the file is wrong.
    """
    clusters = _read(path or PROFILES).clusters
    if name not in clusters:
        known = ", ".join(clusters) or "none"
        raise PipelineError(f"{path or PROFILES.name}: no profile {name!r}; profiles there: {known}.")
    return clusters[name]


def load_trainjob(path: Path | None = None) -> TrainJobProfile:
    """The section ``trainjob``.

    Raises:
        PipelineError: there is no such section or file, or something in the file is wrong.
    """
    profile = _read(path or PROFILES).trainjob
    if profile is None:
        raise PipelineError(f"{path}: no section `trainjob`; copy the one of pipelines/{PROFILES.name}.")
    return profile


def apply(task: Any, needs: Needs, cluster: ClusterProfile) -> None:
    """Makes a task of kfp ask for what the profile says."""
    task.set_cpu_request(needs.cpu_request).set_cpu_limit(needs.cpu_limit)
    task.set_memory_request(needs.memory_request).set_memory_limit(needs.memory_limit)
    if needs.accelerator:
        task.set_accelerator_type(needs.accelerator).set_accelerator_limit(needs.accelerators)
    if needs.accelerators > 1:
        task.set_env_variable(PROCESSES, str(needs.accelerators))
    if needs.retries:
        task.set_retry(needs.retries, backoff_duration=f"{needs.backoff_seconds}s", backoff_factor=2.0)
    for key, value in needs.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in needs.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump())
    if needs.shared_memory:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=needs.shared_memory)
    if cluster.checkpoints:
        kubernetes.mount_pvc(task, cluster.checkpoints.claim, cluster.checkpoints.mount_path)
    for secret in cluster.secrets:
        kubernetes.use_secret_as_env(task, secret.name, secret.env, optional=secret.optional)
    kubernetes.use_field_path_as_env(task, *RUN_ID)
    kubernetes.set_timeout(task, round(needs.timeout_hours * 3600))


def _read(path: Path) -> Profiles:
    try:
        return Profiles.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file of profiles; pipelines/{PROFILES.name} is one.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PipelineError(f"{path}: cannot be read as YAML: {error}") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (found {e['input']!r})" for e in error.errors()]
        raise PipelineError(f"{path}: " + "\n".join(lines)) from None
