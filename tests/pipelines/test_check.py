"""The checker: a sound package has no problem, and each damage is one line that says where, what, and what to do."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml

from ctm.params import load_preset
from pipelines.build import compile_text
from pipelines.check import check_package
from pipelines.profiles import load_profile

EXECUTORS = "deploymentSpec.executors"
CONTAINER = f"{EXECUTORS}.exec-train-classifier.container"
RESOURCES = f"{CONTAINER}.resources"
PODS = f"platforms.kubernetes.{EXECUTORS}"
POD = f"{PODS}.exec-train-classifier"
SHM, SECRET = f"{POD}.emptyDirMounts.0", f"{POD}.secretAsEnv.0.secretNameParameter"
CLAIM, CLAIM_NAME = f"{POD}.pvcMount.0", f"{POD}.pvcMount.0.pvcNameParameter"
TASKS = "root.dag.tasks"
INPUTS = f"{TASKS}.train-classifier.inputs"
SHARDS = f"{INPUTS}.artifacts.shards"
DIGEST = f"{INPUTS}.parameters.shards_digest.taskOutputParameter"
LOOP = f"{TASKS}.for-loop-1.parameterIterator"
MADE = "components.comp-for-loop-1.dag.outputs.{}.pipelinechannel--extract-pseudomasks-pseudomasks{}"
MADE_ARTIFACT = MADE.format("artifacts", ".artifactSelectors.0")
MADE_PARAMETER = MADE.format("parameters", "_digest.valueFromParameter")
OTHER = "{{$.inputs.parameters['pipelinechannel--other']}}"
NO_TASK = {"taskOutputParameter": {"producerTask": "createpvc", "outputParameterKey": "name"}}
GONE = object()
LONG = "a" * 64

DAMAGES: dict[str, tuple[str, Any, str]] = {
    "cpu": (f"{RESOURCES}.resourceCpuLimit", "four", "cpu limit 'four' is no quantity"),
    "memory": (f"{RESOURCES}.resourceMemoryRequest", "16GB", "memory request '16GB' is no quantity"),
    "request above limit": (f"{RESOURCES}.resourceMemoryRequest", "1Ti", "1Ti is more than the limit 28Gi"),
    "accelerator count": (f"{RESOURCES}.accelerator.resourceCount", "two", "count 'two' is no whole"),
    "no accelerators": (f"{RESOURCES}.accelerator", {"resourceType": "gpu"}, "count '0' is no whole number"),
    "no accelerator type": (f"{RESOURCES}.accelerator", {"resourceCount": "1"}, "1 accelerators of no type"),
    "image by tag": (f"{CONTAINER}.image", "registry/ctm:1", "image 'registry/ctm:1' is named by tag"),
    "no image": (f"{CONTAINER}.image", "", "'' is no image"),
    "image of no parameter": (
        f"{CONTAINER}.image",
        OTHER,
        "it uses parameter 'pipelinechannel--other', which task train-classifier is not given",
    ),
    "default that is not passed on": (
        f"{INPUTS}.parameters.override",
        GONE,
        "executor exec-train-classifier: it uses parameter 'override', which task train-classifier is not given",
    ),
    "executor": ("components.comp-evaluate.executorLabel", "none", "component comp-evaluate: executor 'none' does not"),
    "component": (f"{TASKS}.evaluate.componentRef.name", "none", "task evaluate of root: component 'none' does not"),
    "task waited for": (
        f"{TASKS}.evaluate.dependentTasks",
        ["none"],
        "task 'none', which it waits for, does not exist",
    ),
    "producer of an artifact": (
        f"{SHARDS}.taskOutputArtifact.producerTask",
        "none",
        "task train-classifier of root: task 'none', whose 'shards' it reads, does not exist",
    ),
    "artifact": (
        f"{SHARDS}.taskOutputArtifact.outputArtifactKey",
        "shard",
        "task preprocess has no output 'shard'; its outputs: contact_sheet, ",
    ),
    "producer of a parameter": (f"{DIGEST}.producerTask", "none", "task 'none', whose 'shards_digest' it reads"),
    "output parameter": (f"{DIGEST}.outputParameterKey", "digest", "task preprocess has no output 'digest'"),
    "parameter of the pipeline": (
        f"{INPUTS}.parameters.config.componentInputParameter",
        "settings",
        "root has no input parameter 'settings'",
    ),
    "artifact of the pipeline": (SHARDS, {"componentInputArtifact": "pack"}, "root has no input artifact 'pack'"),
    "input without value": (SHARDS, GONE, "input 'shards' has neither value nor default"),
    "items of a loop": (f"{LOOP}.items.inputParameter", "none", "the items of the loop, 'none', are no input of it"),
    "collected artifact": (
        f"{MADE_ARTIFACT}.producerSubtask",
        "none",
        "task 'none', whose 'pseudomasks' it reads, does not exist in comp-for-loop-1",
    ),
    "collected parameter": (
        f"{MADE_PARAMETER}.outputParameterKey",
        "digest",
        "task extract-pseudomasks has no output 'digest'",
    ),
    "no task": (TASKS, {}, "root: there is no task in it"),
    "field of the pipeline": ("rooot", {}, "no PipelineSpec"),
    "field of a pod": (f"{POD}.gpus", 1, 'no field named "gpus"'),
    "executor of a pod": (f"{PODS}.exec-none", {}, "executor exec-none: the pipeline has no such"),
    "effect": (f"{POD}.tolerations.0.effect", "NoWay", "unknown effect 'NoWay'; use NoSchedule"),
    "operator": (f"{POD}.tolerations.0.operator", "Is", "unknown operator 'Is'; use Exists or Equal"),
    "value": (f"{POD}.tolerations.0.value", "present", "Exists goes with no value"),
    "every taint": (f"{POD}.tolerations.0", {"effect": "NoSchedule"}, "without a key the operator must be"),
    "size": (f"{SHM}.sizeLimit", "8 GB", "volume shm: size '8 GB' is no quantity"),
    "medium": (f"{SHM}.medium", "RAM", "volume shm: unknown medium 'RAM'"),
    "volume name": (f"{SHM}.volumeName", "", "'' names no volume"),
    "path": (f"{SHM}.mountPath", "dev/shm", "a volume is mounted at 'dev/shm'; give"),
    "one path twice": (f"{SHM}.mountPath", "/checkpoints", "two volumes are mounted"),
    "claim without name": (CLAIM, {"mountPath": "/checkpoints"}, "'' names no volume claim"),
    "claim of a parameter": (
        CLAIM_NAME,
        {"componentInputParameter": "none"},
        "volume claim: root has no input parameter 'none'",
    ),
    "claim of a task": (CLAIM_NAME, NO_TASK, "volume claim: task 'createpvc', whose 'name' it reads, does not exist"),
    "secret": (f"{SECRET}.runtimeValue.constant", "My Secret", "'My Secret' names no secret"),
    "label": (f"{POD}.podMetadata", {"labels": {"ctm/git": LONG}}, f"label ctm/git={LONG} is no label"),
    "label's name": (f"{POD}.podMetadata", {"labels": {"git revision": "a"}}, "label 'git revision' is no"),
    "selector": (f"{POD}.nodeSelector.labels.gpu", "L4, A100", "selector gpu=L4, A100 is no label"),
}
"""What each is called: where it is, what stands there instead, and what the checker says of it."""


@pytest.fixture(scope="module")
def sound() -> list[Any]:
    """The fan-out, its pods with a secret and a volume; without the defaults of structs, which only take time."""
    documents = list(yaml.safe_load_all(compile_text("ctm_fanout", load_preset("demo"), load_profile("nvidia"))))
    for component in (documents[0]["root"], *documents[0]["components"].values()):
        for about in component.get("inputDefinitions", {}).get("parameters", {}).values():
            if about["parameterType"] == "STRUCT" and "defaultValue" in about:
                about["defaultValue"] = {}
    return documents


def check(documents: list[Any], *, allow_tags: bool = False) -> list[str]:
    text = "\n---\n".join(json.dumps(document) for document in documents)  # JSON is YAML, and quickly written
    return check_package(text, allow_tags=allow_tags)


def damaged(documents: list[Any], place: str, value: Any) -> list[Any]:
    changed = copy.deepcopy(documents)
    *path, last = [int(name) if name.isdecimal() else name for name in place.split(".")]
    part = changed[place.startswith("platforms")]
    for name in path:
        part = part[name]
    if value is GONE:
        del part[last]
    else:
        part[last] = value
    return changed


def test_a_sound_package_has_no_problem(sound: list[Any]):
    assert check(sound) == []
    assert check(sound[:1]) == []


@pytest.mark.parametrize(("place", "value", "expected"), DAMAGES.values(), ids=list(DAMAGES))
def test_each_damage_is_one_line(place: str, value: Any, expected: str, sound: list[Any]):
    (line,) = check(damaged(sound, place, value))
    assert expected in line
    assert "\n" not in line
    assert ": " in line  # where: what
    assert "; " in line  # what to do


def test_two_damages_are_two_lines(sound: list[Any]):
    once = damaged(sound, *DAMAGES["cpu"][:2])
    assert len(check(damaged(once, *DAMAGES["effect"][:2]))) == 2


def test_a_tag_is_allowed_where_it_is_asked_for(sound: list[Any]):
    assert check(damaged(sound, *DAMAGES["image by tag"][:2]), allow_tags=True) == []


@pytest.mark.parametrize("quantity", ["1", "500m", "0.5", ".5", "1e3", "2E2", "16Gi", "4k", "3M", "1E"])
def test_what_kubernetes_takes_for_a_quantity_is_one(quantity: str, sound: list[Any]):
    changed = damaged(sound, f"{RESOURCES}.resourceCpuRequest", quantity)
    assert not [line for line in check(changed) if "no quantity" in line]


@pytest.mark.parametrize("quantity", ["", "-1", "1 Gi", "1gi", "1K", "Gi", "1.2.3", "1e", "½"])
def test_what_kubernetes_refuses_as_a_quantity_is_a_problem(quantity: str, sound: list[Any]):
    changed = damaged(sound, f"{POD}.emptyDirMounts.0.sizeLimit", quantity or " ")
    assert len(check(changed)) == 1


@pytest.mark.parametrize("text", ["", "a: [", "- 1\n- 2", "a: 1\n---\nb: 2\n---\nc: 3", "words", "{}\n---\n{a: 1}"])
def test_what_is_no_package_at_all_is_one_line(text: str):
    (line,) = check_package(text, allow_tags=False)
    assert line.startswith("package: no ")
