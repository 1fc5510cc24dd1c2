"""A pod that is killed and loses its disk: the training goes on in another from ``--checkpoints s3://…``."""

from __future__ import annotations

import signal
import time
import uuid
from typing import Any

import pytest

from tests.seaweed import SeaweedServer
from tests.stage_commands import Commands

pytestmark = pytest.mark.slow

EPOCHS = {"train_classifier": 12, "train_segmenter": 6}
"""So many that the last is far away when the first has ended."""


@pytest.fixture
def place(s3_server: SeaweedServer) -> str:
    return f"s3://{s3_server.bucket}/checkpoints/{uuid.uuid4().hex}"


def names(server: SeaweedServer, place: str, *, client: Any = None) -> list[str]:
    prefix = place.removeprefix(f"s3://{server.bucket}/")
    found = (client or server.client).list_objects_v2(Bucket=server.bucket, Prefix=prefix).get("Contents", ())
    return [entry["Key"].removeprefix(f"{prefix}/") for entry in found]


@pytest.fixture
def trainings(trainings_of, request: pytest.FixtureRequest) -> Commands:
    """The training of the classifier or of another stage, in pods with a disk each."""
    stage = getattr(request, "param", "train_classifier")
    return trainings_of(stage, epochs=EPOCHS[stage])


def kill_after_an_epoch(trainings: Commands, server: SeaweedServer, place: str) -> None:
    client = server.client  # to make one takes a while
    process = trainings.start("killed", "--checkpoints", place)
    try:
        while process.poll() is None and not any(".ckpt" in name for name in names(server, place, client=client)):
            time.sleep(0.02)
    finally:
        process.kill()
        log = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, f"the training had ended before it was killed: {log}"
    assert not trainings.folder("killed").exists()


@pytest.mark.parametrize("trainings", EPOCHS, indirect=True)
def test_a_killed_pods_training_goes_on_in_another_to_the_bytes_of_an_undisturbed_one(trainings, s3_server, place):
    kill_after_an_epoch(trainings, s3_server, place)
    code, log = trainings.run("next", "--checkpoints", place)
    assert code == 0, log
    assert f"fetching {place}/{trainings.stage}/" in log
    assert "resuming after epoch" in log
    assert "  epoch 1/" not in log, "it started anew"
    assert names(s3_server, place) == []
    assert not trainings.states("next")
    assert trainings.run("undisturbed")[0] == 0
    for path in trainings.folder("undisturbed").iterdir():
        assert (trainings.folder("next") / path.name).read_bytes() == path.read_bytes(), path.name


def test_where_every_checkpoint_was_cut_it_is_an_error_before_the_training(trainings, s3_server, place):
    kill_after_an_epoch(trainings, s3_server, place)
    kept = names(s3_server, place)
    for name in kept:
        where = {"Bucket": s3_server.bucket, "Key": f"{place.removeprefix(f's3://{s3_server.bucket}/')}/{name}"}
        found = s3_server.client.get_object(**where)
        data = found["Body"].read()
        s3_server.client.put_object(**where, Body=data[: len(data) // 2], Metadata=found["Metadata"])
    code, log = trainings.run("next", "--checkpoints", place)
    assert code == 1
    assert all(
        f"{place}/{name}: damaged checkpoint (its SHA-256 is not the one that was recorded" in log for name in kept
    )
    assert "every checkpoint is damaged" in log
    assert "Start anew with --resume never" in log
    assert "epoch" not in log
    assert not trainings.folder("next").exists()


def test_wrong_credentials_are_an_error_before_the_training(trainings, place, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mistyped-secret")
    code, log = trainings.run("pod", "--checkpoints", place)
    assert code == 1
    assert f"error: {place}/" in log
    assert "refuses access (SignatureDoesNotMatch" in log
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in log
    assert not [word for word in ("Traceback", "epoch", "mistyped-secret") if word in log]
    assert not [path for path in (tmp_path / "pod").rglob("*") if path.is_file()]
