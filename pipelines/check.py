"""Finds in a compiled package what kfp's own protos let through and a cluster refuses hours later, or takes wrongly."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec, PlatformSpec

from pipelines.images import check_image

__all__ = ["LOADER", "check_package"]

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast, where there is one."""
PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
SUFFIXES = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
"""Powers of ten; those of 1024 follow from the place of the letter."""
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
VOLUME_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(r"(?:[a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
OPERATORS = ("", "Exists", "Equal")
EFFECTS = ("", "NoSchedule", "PreferNoSchedule", "NoExecute")
MEDIA = ("", "Memory", "HugePages")

NAMED = (
    ("pvc_mount", "constant", "pvc_name_parameter", "volume claim"),
    ("secret_as_env", "secret_name", "secret_name_parameter", "secret"),
    ("secret_as_volume", "secret_name", "secret_name_parameter", "secret"),
    ("config_map_as_env", "config_map_name", "config_map_name_parameter", "config map"),
    ("config_map_as_volume", "config_map_name", "config_map_name_parameter", "config map"),
)
"""What a pod uses by name: the field, its name as text, its name as a parameter, what it is."""

Task = tuple[str, str]
"""The component whose DAG holds the task, and the task's name."""


def check_package(text: str, *, allow_tags: bool) -> list[str]:
    """What is wrong with a package of one or two YAML documents, one line each: where, what, and what to do."""
    try:
        documents = [document for document in yaml.load_all(text, LOADER) if document is not None]
        package = Package(*documents)
    except yaml.YAMLError as error:
        return [f"package: no valid YAML ({' '.join(str(error).split())}); compile it again"]
    except (ParseError, TypeError) as error:
        return [f"package: no PipelineSpec with or without a PlatformSpec ({' '.join(str(error).split())}); see there"]
    return sorted({*package.graph(), *package.containers(allow_tags=allow_tags), *package.platform()})


class Package:
    """A compiled package, read as the protos that it is made of."""

    def __init__(self, pipeline: Any, platform: Any = None) -> None:
        """Reads the two documents.

        Raises:
            ParseError: one is not what it should be.
        """
        spec = ParseDict(pipeline, PipelineSpec())
        deployment = ParseDict(MessageToDict(spec.deployment_spec), PipelineDeploymentConfig())
        self.components = {"root": spec.root, **spec.components}
        self.executors = dict(deployment.executors)
        platforms = ParseDict(platform or {}, PlatformSpec()).platforms
        self.pods = {name: pod for p in platforms.values() for name, pod in p.deployment_spec.executors.items()}

    def graph(self) -> Iterator[str]:
        """Components, executors, tasks, inputs and outputs that are referred to and do not exist."""
        if not self.components["root"].dag.tasks:
            yield "root: there is no task in it; compile the package again"
        for name, component in self.components.items():
            label = component.executor_label
            if label and label not in self.executors:
                yield f"component {name}: executor {label!r} does not exist; compile the package again"
            for task in component.dag.tasks:
                yield from self._task((name, task))
            outputs = component.dag.outputs
            selectors = [s for output in outputs.artifacts.values() for s in output.artifact_selectors]
            for artifact in selectors:
                yield from self._output(name, name, artifact.producer_subtask, artifact.output_artifact_key)
            for output in outputs.parameters.values():
                for parameter in (output.value_from_parameter, *output.value_from_oneof.parameter_selectors):
                    if parameter.producer_subtask:
                        yield from self._output(name, name, parameter.producer_subtask, parameter.output_parameter_key)

    def containers(self, *, allow_tags: bool) -> Iterator[str]:
        """Images without digest, parameters that a task is not given, and resources that are no quantities."""
        for label, executor in self.executors.items():
            if not executor.HasField("container"):
                continue
            place, container = f"executor {label}", executor.container
            used = {name for text in _texts(container) for name in PLACEHOLDER.findall(text)}
            for task in self._tasks_of(label):
                for name in sorted(used - set(self._spec(task).inputs.parameters)):
                    yield f"{place}: it uses parameter {name!r}, which task {task[1]} is not given; pass it on"
            if not PLACEHOLDER.fullmatch(container.image):
                problem = check_image(container.image, allow_tags=allow_tags)
                yield from [f"{place}: {problem}"] if problem else []
            yield from _resources(place, container.resources)

    def platform(self) -> Iterator[str]:
        """What the pods of executors are asked to have and cannot."""
        for label, struct in self.pods.items():
            place = f"platform, executor {label}"
            if label not in self.executors:
                yield f"{place}: the pipeline has no such executor; compile both documents together"
                continue
            try:
                pod = ParseDict(MessageToDict(struct), KubernetesExecutorConfig())
            except ParseError as error:
                yield f"{place}: {' '.join(str(error).split())}; see kfp.kubernetes for what there is"
                continue
            yield from _labels(place, pod)
            yield from _tolerations(place, pod)
            yield from _volumes(place, pod)
            yield from self._names(place, label, pod)

    def _spec(self, task: Task) -> Any:
        return self.components[task[0]].dag.tasks[task[1]]

    def _tasks_of(self, label: str) -> list[Task]:
        """The tasks that run an executor."""
        running = {name for name, component in self.components.items() if component.executor_label == label}
        tasks = [(name, task) for name, component in self.components.items() for task in component.dag.tasks]
        return [task for task in tasks if self._spec(task).component_ref.name in running]

    def _task(self, task: Task) -> Iterator[str]:
        parent, name = task
        spec, place = self._spec(task), f"task {name} of {parent}"
        for before in spec.dependent_tasks:
            if before not in self.components[parent].dag.tasks:
                yield f"{place}: task {before!r}, which it waits for, does not exist; name one of the same DAG"
        for source in spec.inputs.parameters.values():
            yield from self._parameter(place, parent, source)
        for source in spec.inputs.artifacts.values():
            wanted = source.component_input_artifact
            if wanted and wanted not in self.components[parent].input_definitions.artifacts:
                yield f"{place}: {parent} has no input artifact {wanted!r}; define or rename it"
            made = source.task_output_artifact
            if made.producer_task:
                yield from self._output(place, parent, made.producer_task, made.output_artifact_key)
        items = spec.parameter_iterator.items.input_parameter
        if items and items not in spec.inputs.parameters:
            yield f"{place}: the items of the loop, {items!r}, are no input of it; pass them on"
        if spec.component_ref.name not in self.components:
            yield f"{place}: component {spec.component_ref.name!r} does not exist; compile the package again"
            return
        defined = self.components[spec.component_ref.name].input_definitions
        given = {*spec.inputs.parameters, *spec.inputs.artifacts, spec.parameter_iterator.item_input}
        for wanted, about in (*defined.parameters.items(), *defined.artifacts.items()):
            if wanted not in given and not about.is_optional:
                yield f"{place}: input {wanted!r} has neither value nor default; give it one"

    def _parameter(self, place: str, parent: str, source: Any) -> Iterator[str]:
        """The problems of where a parameter comes from."""
        wanted = source.component_input_parameter
        if wanted and wanted not in self.components[parent].input_definitions.parameters:
            yield f"{place}: {parent} has no input parameter {wanted!r}; define or rename it"
        made = source.task_output_parameter
        if made.producer_task:
            yield from self._output(place, parent, made.producer_task, made.output_parameter_key)

    def _output(self, place: str, parent: str, producer: str, key: str) -> Iterator[str]:
        """The problems of an output that is read from a task of the DAG ``parent``."""
        if producer not in self.components[parent].dag.tasks:
            yield f"{place}: task {producer!r}, whose {key!r} it reads, does not exist in {parent}; name one that does"
            return
        component = self.components.get(self._spec((parent, producer)).component_ref.name)
        if component is None:  # reported where the task is checked
            return
        outputs = component.output_definitions
        if key not in outputs.parameters and key not in outputs.artifacts:
            known = ", ".join(sorted([*outputs.artifacts, *outputs.parameters])) or "none"
            yield f"{place}: task {producer} has no output {key!r}; its outputs: {known}"

    def _names(self, place: str, label: str, pod: KubernetesExecutorConfig) -> Iterator[str]:
        """Volume claims, secrets and config maps without a name, or with that of an output that does not exist."""
        for field, constant, parameter, kind in NAMED:
            for entry in getattr(pod, field):
                source = getattr(entry, parameter)
                if source.WhichOneof("kind") in ("task_output_parameter", "component_input_parameter"):
                    for parent, _ in self._tasks_of(label):
                        yield from self._parameter(f"{place}, {kind}", parent, source)
                    continue
                name = source.runtime_value.constant.string_value or getattr(entry, constant)
                if not NAME.fullmatch(name):
                    yield f"{place}: {name!r} names no {kind}; use lower-case letters, digits, '-' and '.'"


def _texts(container: Any) -> list[str]:
    return [container.image, *container.command, *container.args, *(variable.value for variable in container.env)]


def _resources(place: str, resources: Any) -> Iterator[str]:
    for kind in ("cpu", "memory"):
        request, limit = (getattr(resources, f"resource_{kind}_{end}") for end in ("request", "limit"))
        for end, quantity in (("request", request), ("limit", limit)):
            if quantity and _amount(quantity) is None and not PLACEHOLDER.fullmatch(quantity):
                yield f"{place}: {kind} {end} {quantity!r} is no quantity; write one such as 500m, 4 or 16Gi"
        least, most = _amount(request), _amount(limit)
        if least is not None and most is not None and least > most:
            yield f"{place}: {kind} request {request} is more than the limit {limit}; raise the limit"
    if resources.HasField("accelerator"):
        accelerator = resources.accelerator
        count = accelerator.resource_count or str(accelerator.count)
        if not (PLACEHOLDER.fullmatch(count) or re.fullmatch(r"[1-9]\d*", count)):
            yield f"{place}: accelerator count {count!r} is no whole number above 0; give one, or no accelerator"
        if not (accelerator.resource_type or accelerator.type):
            yield f"{place}: {count} accelerators of no type; name one such as nvidia.com/gpu"


def _amount(quantity: str) -> float | None:
    """A Kubernetes quantity as a number; None if it is none."""
    found = QUANTITY.fullmatch(quantity)
    if not found:
        return None
    number, suffix = float(found["number"]), found["suffix"] or ""
    if suffix.endswith("i"):
        return number * float(1024 ** ("KMGTPE".index(suffix[0]) + 1))
    return number * 10.0 ** (SUFFIXES[suffix] if suffix in SUFFIXES else int(suffix[1:] or 0))


def _labels(place: str, pod: KubernetesExecutorConfig) -> Iterator[str]:
    for kind, labels in (("label", pod.pod_metadata.labels), ("node selector", pod.node_selector.labels)):
        for key, value in labels.items():
            if not LABEL_KEY.fullmatch(key):
                yield f"{place}: {kind} {key!r} is no label's name; use [prefix/]name of letters, digits, '-_.'"
            if not LABEL_VALUE.fullmatch(value):
                yield f"{place}: {kind} {key}={value} is no label; use up to 63 letters and digits, '-_.' between"


def _tolerations(place: str, pod: KubernetesExecutorConfig) -> Iterator[str]:
    for toleration in pod.tolerations:
        about = f"{place}: toleration of {toleration.key or 'every taint'}"
        if toleration.operator not in OPERATORS:
            yield f"{about}: unknown operator {toleration.operator!r}; use Exists or Equal"
        if toleration.effect not in EFFECTS:
            yield f"{about}: unknown effect {toleration.effect!r}; use {', '.join(EFFECTS[1:])}, or none for all"
        if toleration.value and toleration.operator == "Exists":
            yield f"{about}: Exists goes with no value; leave out {toleration.value!r} or use Equal"
        if not toleration.key and toleration.operator != "Exists" and not toleration.HasField("toleration_json"):
            yield f"{about}: without a key the operator must be Exists; give one of both"


def _volumes(place: str, pod: KubernetesExecutorConfig) -> Iterator[str]:
    ephemeral = [(v.volume_name, v.size) for v in pod.generic_ephemeral_volume]
    volumes = [*((v.volume_name, v.size_limit) for v in pod.empty_dir_mounts), *ephemeral]
    for name, size in volumes:
        if not VOLUME_NAME.fullmatch(name):
            yield f"{place}: {name!r} names no volume; use lower-case letters, digits and '-'"
        if size and _amount(size) is None:
            yield f"{place}: volume {name}: size {size!r} is no quantity; write one such as 8Gi"
    for directory in pod.empty_dir_mounts:
        if directory.medium not in MEDIA:
            yield f"{place}: volume {directory.volume_name}: unknown medium {directory.medium!r}; use Memory or none"
    for name in _twice(name for name, _ in volumes):
        yield f"{place}: two volumes are called {name!r}; rename one"
    mounts = (pod.pvc_mount, pod.empty_dir_mounts, pod.generic_ephemeral_volume, pod.secret_as_volume)
    paths = [mount.mount_path for group in (*mounts, pod.config_map_as_volume) for mount in group]
    for path in paths:
        if not path.startswith("/"):
            yield f"{place}: a volume is mounted at {path!r}; give a path that begins with /"
    for path in _twice(paths):
        yield f"{place}: two volumes are mounted at {path!r}; move one"


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
