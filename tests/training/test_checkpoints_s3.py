"""A pod that is killed and loses its disk: the training goes on in another from ``--checkpoints s3://…``."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctm.params import Params, load_params, to_yaml
from ctm.stages import STAGES
from tests.seaweed import SeaweedServer

pytestmark = pytest.mark.slow

EPOCHS = {"train_classifier": 12, "train_segmenter": 6}
"""So many that the last is far away when the first has ended."""


class Pods:
    """Starts one training again and again, each time on an empty disk."""

    def __init__(self, stage: str, params: Params, inputs: dict[str, Path], root: Path) -> None:
        self.stage, self._inputs, self._root = stage, inputs, root
        self._count = 0
        (root / "params.yaml").write_text(to_yaml(params), encoding="utf-8")
        self.params = load_params(root / "params.yaml")

    def start(self, *options: str) -> tuple[Path, subprocess.Popen[str]]:
        """The disk and the process of a new pod."""
        self._count += 1
        disk = self._root / f"pod{self._count}"
        disk.mkdir()
        ports = [word for name, path in self._inputs.items() for word in (f"--{name}", path)]
        command = [Path(sys.executable).with_name("ctm"), self.stage.replace("_", "-"), *ports, *options]
        process = subprocess.Popen(
            [*command, "--params", self._root / "params.yaml", "--device", "cpu"],
            cwd=disk,
            stderr=subprocess.PIPE,
            text=True,
        )
        return disk, process

    def run(self, *options: str) -> tuple[Path, int, str]:
        """The disk, exit code and log of a pod that was left to its end."""
        disk, process = self.start(*options)
        log = process.communicate()[1]
        return disk, process.returncode, log

    def written(self, disk: Path) -> dict[str, bytes]:
        """What the training has written to a disk."""
        (output,) = STAGES[self.stage].outputs.values()
        folder = disk / output.path
        return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@pytest.fixture
def pods_of(pipeline: Any, changed: Callable[..., Params], tmp_path: Path) -> Callable[[str], Pods]:
    """Makes the pods of a training."""

    def make(stage: str) -> Pods:
        return Pods(stage, changed(**{stage: {"epochs": EPOCHS[stage]}}), pipeline.inputs(stage), tmp_path)

    return make


@pytest.fixture
def place(s3_server: SeaweedServer) -> str:
    return f"s3://{s3_server.bucket}/checkpoints/{uuid.uuid4().hex}"


def names(server: SeaweedServer, place: str, *, client: Any = None) -> list[str]:
    prefix = place.removeprefix(f"s3://{server.bucket}/")
    found = (client or server.client).list_objects_v2(Bucket=server.bucket, Prefix=prefix).get("Contents", ())
    return [entry["Key"].removeprefix(f"{prefix}/") for entry in found]


def kill_after_an_epoch(pods: Pods, server: SeaweedServer, place: str) -> None:
    client = server.client  # to make one takes a while
    disk, process = pods.start("--checkpoints", place)
    try:
        while process.poll() is None and not any(".ckpt" in name for name in names(server, place, client=client)):
            time.sleep(0.02)
    finally:
        process.kill()
        log = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, f"the training had ended before it was killed: {log}"
    assert not pods.written(disk)
    shutil.rmtree(disk)


@pytest.mark.parametrize("stage", EPOCHS)
def test_a_killed_pods_training_goes_on_in_another_to_the_bytes_of_an_undisturbed_one(
    pipeline: Any, pods_of, s3_server, place, tmp_path, stage: str
):
    pods = pods_of(stage)
    kill_after_an_epoch(pods, s3_server, place)
    disk, code, log = pods.run("--checkpoints", place)
    assert code == 0, log
    assert f"fetching {place}/{stage}/" in log
    assert "resuming after epoch" in log
    assert "  epoch 1/" not in log, "it started anew"
    assert names(s3_server, place) == []
    assert not list(disk.rglob("*.ckpt"))
    pipeline.run(stage, tmp_path / "undisturbed", params=pods.params)
    assert pods.written(disk) == pods.written(tmp_path / "undisturbed")


def test_where_every_checkpoint_was_cut_it_is_an_error_before_the_training(pods_of, s3_server, place):
    pods = pods_of("train_classifier")
    kill_after_an_epoch(pods, s3_server, place)
    kept = names(s3_server, place)
    for name in kept:
        where = {"Bucket": s3_server.bucket, "Key": f"{place.removeprefix(f's3://{s3_server.bucket}/')}/{name}"}
        found = s3_server.client.get_object(**where)
        data = found["Body"].read()
        s3_server.client.put_object(**where, Body=data[: len(data) // 2], Metadata=found["Metadata"])
    disk, code, log = pods.run("--checkpoints", place)
    assert code == 1
    assert all(
        f"{place}/{name}: damaged checkpoint (its SHA-256 is not the one that was recorded" in log for name in kept
    )
    assert "every checkpoint is damaged" in log
    assert "Start anew with --resume never" in log
    assert "epoch" not in log
    assert not pods.written(disk)


def test_wrong_credentials_are_an_error_before_the_training(pods_of, place, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mistyped-secret")
    disk, code, log = pods_of("train_classifier").run("--checkpoints", place)
    assert code == 1
    assert f"error: {place}/" in log
    assert "refuses access (SignatureDoesNotMatch" in log
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in log
    assert not [word for word in ("Traceback", "epoch", "mistyped-secret") if word in log]
    assert not [path for path in disk.rglob("*") if path.is_file()]
