"""Checkpoints in a folder and in a bucket beside it: they agree before a training goes on, and it is known in time."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from ctm.errors import ArtifactError, StorageError
from ctm.execute import RunOptions, execute
from ctm.params import Params, stage_config
from ctm.runtime.checkpoint_store import CheckpointStore, open_checkpoints
from ctm.stages import STAGES
from ctm.training.checkpoints import Checkpoints
from ctm.training.device import setup_fabric
from tests.seaweed import SeaweedServer


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return setup_fabric("cpu", "fp32")


@pytest.fixture
def store(s3_server: SeaweedServer) -> CheckpointStore:
    """The place of one run in the bucket, of this test alone."""
    store = open_checkpoints(f"s3://{s3_server.bucket}/{uuid.uuid4().hex}", "train/0123")[1]
    assert store is not None
    return store


Save = Callable[..., None]


@pytest.fixture
def save(fabric: Fabric) -> Save:
    """Saves a number as a state."""

    def saved(checkpoints: Checkpoints, name: str, number: int) -> None:
        checkpoints.save(fabric, name, {"number": number, "weights": torch.full((3,), float(number))})

    return saved


@pytest.fixture
def load(fabric: Fabric) -> Callable[[Checkpoints, str], int | None]:
    """The number that was saved as a state; None if there is none."""

    def loaded(checkpoints: Checkpoints, name: str) -> int | None:
        state: dict[str, Any] = {"number": 0, "weights": torch.zeros(3)}
        return state["number"] if checkpoints.load(fabric, name, state) else None

    return loaded


def test_what_is_saved_is_loaded_by_name(save, load, tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", resume=True)
    assert load(checkpoints, "last") is None
    save(checkpoints, "best", 1)
    save(checkpoints, "last", 2)
    again = Checkpoints(tmp_path / "run", resume=True)
    assert (load(again, "best"), load(again, "last")) == (1, 2)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_training_that_starts_anew_removes_the_states_of_the_one_before(save, load, tmp_path):
    before = Checkpoints(tmp_path, resume=True)
    save(before, "best", 1)
    save(before, "last", 2)
    save(Checkpoints(tmp_path, resume=False), "best", 3)  # and killed before its first `last`
    assert load(Checkpoints(tmp_path, resume=True), "last") is None


def test_a_damaged_file_is_named(save, load, tmp_path):
    checkpoints = Checkpoints(tmp_path, resume=True)
    save(checkpoints, "last", 1)
    file = tmp_path / "last.ckpt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=rf"{file}: damaged checkpoint .*Remove it, or start anew with --resume"):
        load(checkpoints, "last")


def test_a_folder_that_cannot_be_written_is_an_error_before_the_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"checkpoints cannot be written to .*/file/run by user .*--checkpoints"):
        Checkpoints(tmp_path / "file" / "run", resume=True)


def test_states_in_a_store_outlive_the_folder(save, load, store, tmp_path):
    here = Checkpoints(tmp_path / "here", resume=True, store=store)
    save(here, "best", 1)
    save(here, "last", 2)
    there = Checkpoints(tmp_path / "there", resume=True, store=store)
    assert (load(there, "best"), load(there, "last")) == (1, 2)


def test_the_states_of_the_store_count_more_than_those_of_the_folder(save, load, store, tmp_path):
    for folder, number in (("one", 1), ("two", 2)):
        checkpoints = Checkpoints(tmp_path / folder, resume=True, store=store)
        save(checkpoints, "best", number)
        save(checkpoints, "last", number + 10)
    back = Checkpoints(tmp_path / "one", resume=True, store=store)
    assert (load(back, "best"), load(back, "last")) == (2, 12)


def test_a_store_without_a_last_state_takes_those_of_the_folder(save, load, store, tmp_path):
    save(Checkpoints(tmp_path / "killed", resume=True, store=store), "best", 9)  # before its first `last`
    local = Checkpoints(tmp_path / "here", resume=True)
    save(local, "best", 1)
    save(local, "last", 2)
    here = Checkpoints(tmp_path / "here", resume=True, store=store)
    assert (load(here, "best"), load(here, "last")) == (1, 2)
    there = Checkpoints(tmp_path / "there", resume=True, store=store)
    assert (load(there, "best"), load(there, "last")) == (1, 2)


def test_starting_anew_clears_the_store_too(save, load, store, tmp_path):
    save(Checkpoints(tmp_path / "here", resume=True, store=store), "last", 1)
    save(Checkpoints(tmp_path / "here", resume=False, store=store), "best", 2)
    assert load(Checkpoints(tmp_path / "there", resume=True, store=store), "last") is None


def test_a_state_that_was_altered_in_the_store_is_an_error_before_the_training(save, store, s3_server, tmp_path):
    save(Checkpoints(tmp_path / "here", resume=True, store=store), "last", 1)
    key = f"{store.uri.removeprefix(f's3://{s3_server.bucket}/')}/last.ckpt"
    found = s3_server.client.get_object(Bucket=s3_server.bucket, Key=key)
    cut = found["Body"].read()[:-1]
    s3_server.client.put_object(Bucket=s3_server.bucket, Key=key, Body=cut, Metadata=found["Metadata"])
    with pytest.raises(ArtifactError, match=rf"^{store.uri}/last.ckpt: damaged checkpoint.*--resume never"):
        Checkpoints(tmp_path / "there", resume=True, store=store)
    save(Checkpoints(tmp_path / "there", resume=False, store=store), "last", 2)


def test_a_store_that_cannot_be_written_is_an_error_before_the_training(store, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
        Checkpoints(tmp_path, resume=True, store=store)


# a mounted volume


@contextmanager
def user_of_the_images() -> Iterator[None]:
    """This process is, in the block, user 1000 of group 0 and of no other."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(0)
    os.seteuid(1000)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setgroups(groups)


@pytest.fixture
def home(pipeline: Any) -> Iterator[Path]:
    """A folder of that user, with shards, and the root of a fresh volume, which its group may write, as checkpoints."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become another user")
    place = Path(tempfile.mkdtemp(prefix="ctm-volume-"))  # any user can come to it, unlike pytest's own
    try:
        os.chown(place, 1000, 0)
        (place / "checkpoints" / "lost+found").mkdir(parents=True)
        (place / "checkpoints" / "lost+found").chmod(0o700)
        (place / "checkpoints").chmod(0o775)
        shutil.copytree(pipeline.path("preprocess", "shards"), place / "shards")
        pipeline.path("train_classifier", "classifier")  # all that must be imported has been, then
        yield place
    finally:
        shutil.rmtree(place)


def train(home: Path, params: Params) -> None:
    stage = STAGES["train_classifier"]
    options = RunOptions(metrics=home / "metrics.json", checkpoints=home / "checkpoints", device="cpu")
    outputs = {"classifier": home / "classifier"}
    execute(
        stage, stage_config(params, stage.config), inputs={"shards": home / "shards"}, outputs=outputs, options=options
    )


def test_the_root_of_a_volume_that_the_group_may_write_is_a_place_for_checkpoints(
    pipeline: Any, tiny_params: Params, home: Path
):
    with user_of_the_images():
        train(home, tiny_params)
    expected, written = pipeline.path("train_classifier", "classifier"), home / "classifier"
    assert (written / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert written.stat().st_uid == 1000
    left = [path.relative_to(home / "checkpoints").as_posix() for path in (home / "checkpoints").rglob("*")]
    assert sorted(left) == ["lost+found", "train_classifier"]


def test_a_volume_that_the_user_may_not_write_is_an_error_before_the_training(
    tiny_params: Params, home: Path, caplog: pytest.LogCaptureFixture
):
    (home / "checkpoints").chmod(0o755)
    caplog.set_level(logging.INFO, "ctm")
    caplog.clear()
    message = (
        rf"^checkpoints cannot be written to {home}/checkpoints/train_classifier/\S+ by user 1000 of group 0 "
        r"\(Permission denied\): name a folder with --checkpoints that can, or mount one there$"
    )
    with user_of_the_images(), pytest.raises(StorageError, match=message):
        train(home, tiny_params)
    assert "epoch" not in caplog.text
