"""ctm-entrypoint: one process, or torchrun with several, as the environment says."""

from __future__ import annotations

import json

import pytest

from ctm.kubeflow import encode_nulls
from ctm.params import stage_config
from ctm.stages import STAGES

pytestmark = pytest.mark.slow

TRIAL = """\
#!/bin/sh
# Stands where ctm stands: tells how it was started, in one piece.
printf '%s\\n' "rank=${RANK:-none} world=${WORLD_SIZE:-none} master=${MASTER_ADDR:-none} arguments=$*"
"""


TORCHRUN = """\
#!/opt/ctm/bin/python
import json, sys
from torch.distributed.run import parse_args
print(json.dumps(vars(parse_args(sys.argv[1:]))))
"""


@pytest.fixture
def entrypoint(engine, tmp_path):
    """What the entrypoint writes where a script of ours stands in the place of a program."""

    def run(name: str, script: str, *command: str, **environment: str) -> list[str]:
        program = tmp_path / "trial" / name
        program.parent.mkdir()
        program.write_text(script)
        program.chmod(0o755)
        environment["PATH"] = "/trial:/opt/ctm/bin:/usr/local/bin:/usr/bin:/bin"
        volumes = {str(program.parent): {"bind": "/trial", "mode": "ro"}}
        return engine.succeed(
            "train", "ctm-entrypoint", *command, environment=environment, volumes=volumes
        ).splitlines()

    return run


@pytest.fixture
def started(entrypoint):
    """The lines of all processes that the entrypoint starts, sorted."""

    def run(**environment: str) -> list[str]:
        lines = entrypoint("ctm", TRIAL, "a stage", "--x", **environment)
        return sorted(line for line in lines if line.startswith("rank="))

    return run


@pytest.mark.parametrize("environment", [{}, {"CTM_NPROC": "1"}, {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "1"}])
def test_one_process_is_ctm_itself(started, environment):
    assert started(**environment) == ["rank=none world=none master=none arguments=a stage --x"]


@pytest.mark.parametrize("environment", [{"CTM_NPROC": "3"}, {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "3"}])
def test_several_processes_are_started_by_torchrun(started, environment):
    lines = started(**environment)
    assert [line.partition(" master")[0] for line in lines] == [f"rank={rank} world=3" for rank in range(3)]
    assert all(line.endswith("arguments=a stage --x") for line in lines)


def test_on_several_nodes_torchrun_meets_where_a_trainjob_says(entrypoint):
    """Torchrun waits for the other nodes: what it has been told is read from its own parser."""
    environment = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "4", "PET_NODE_RANK": "1"}
    environment |= {"PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29400"}
    found = json.loads(entrypoint("torchrun", TORCHRUN, "stage", **environment)[-1])
    assert (found["nnodes"], found["nproc_per_node"], found["node_rank"]) == ("2", "4", 1)
    assert (found["master_addr"], found["master_port"]) == ("job-node-0-0.job", 29400)
    assert (found["training_script"], found["training_script_args"]) == ("ctm", ["stage"])
    assert found["no_python"]
    assert not found["standalone"]


def test_a_stage_of_one_process_refuses_several(engine):
    command = ["ctm-entrypoint", "prune-heads", "--shards", "/tmp/none", "--classifier", "/tmp/none"]
    config = json.dumps({"prune_heads": {"tolerance": 0.001, "check_images": 1}})
    ended = engine.run("train", *command, "--config", config, environment={"CTM_NPROC": "2"})
    assert ended.code != 0
    assert ended.text.count("error: prune-heads runs as one process, and torchrun has started 2 (WORLD_SIZE)") >= 1
    assert "with CTM_NPROC=1" in ended.text


def test_two_processes_train_in_the_image_and_one_of_them_writes(engine, pipeline, tiny_params, tmp_path):
    params = stage_config(tiny_params, STAGES["train_classifier"].config).model_dump(mode="json")
    shards = pipeline.path("preprocess", "shards")
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)  # the image's user is not this one
    command = [
        "ctm-entrypoint",
        "train-classifier",
        "--shards",
        "/shards",
        "--config",
        json.dumps(encode_nulls(params)),
    ]
    outputs = ["--classifier", "/place/classifier", "--metrics", "/place/metrics.json", "--checkpoints", "/place/ckpt"]
    text = engine.succeed(
        "train",
        *(*command, *outputs),
        environment={"CTM_NPROC": "2", "OMP_NUM_THREADS": "1"},
        volumes={str(shards): {"bind": "/shards", "mode": "ro"}, str(place): {"bind": "/place", "mode": "rw"}},
    )
    assert "2 processes" in text
    assert text.count("  epoch 1/") == 1
    written = sorted(path.name for path in (place / "classifier").iterdir())
    assert written == ["history.csv", "model.json", "model.safetensors"]
