"""Checkpoints in a folder and in a bucket beside it: they agree before a training goes on, and it is known in time."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ctm.errors import ArtifactError, StorageError
from ctm.execute import RunOptions, execute
from ctm.params import Params, stage_config
from ctm.runtime.checkpoint_store import CheckpointStore, open_checkpoints
from ctm.stages import STAGES
from ctm.training.checkpoints import Checkpoints, Position
from tests.seaweed import SeaweedServer


@pytest.fixture
def store(s3_server: SeaweedServer) -> CheckpointStore:
    """The place of one run in the bucket, of this test alone."""
    return new_store(f"s3://{s3_server.bucket}/{uuid.uuid4().hex}")


def new_store(place: str) -> CheckpointStore:
    store = open_checkpoints(place, "train/0123")[1]
    assert store is not None
    return store


def again(store: CheckpointStore) -> CheckpointStore:
    """The same place, as another process opens it."""
    return new_store(store.uri.removesuffix("/train/0123"))


def save(checkpoints: Checkpoints, *epochs: int) -> None:
    """Saves a state that knows its epoch at the end of each."""
    for epoch in epochs:
        checkpoints.save(Position(epoch, 0), {"epoch": epoch, "weights": torch.full((3,), float(epoch))})


def load(checkpoints: Checkpoints) -> int | None:
    """The epoch of the state that is loaded; None if there is none."""
    state = checkpoints.load()
    return None if state is None else state["epoch"]


def damage(path: Path) -> None:
    """Cuts a file short, as a machine that goes down may."""
    path.write_bytes(path.read_bytes()[:100])


def alter(path: Path) -> None:
    """Changes one byte."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ckpt"))


def test_the_state_that_is_furthest_is_loaded(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", resume=True)
    assert load(checkpoints) is None
    save(checkpoints, 1, 2)
    checkpoints.save(Position(2, 7), {"epoch": 27})
    assert load(Checkpoints(tmp_path / "run", resume=True)) == 27
    state = checkpoints.load()
    assert state is not None
    assert sorted(state) == ["epoch"]


def test_the_newest_state_and_the_one_before_it_are_kept(tmp_path):
    save(Checkpoints(tmp_path, resume=True), 1, 2, 3, 9, 10, 11)
    assert [path.name[:13] for path in files(tmp_path)] == ["round0-000010", "round0-000011"]
    assert {path.suffix for path in tmp_path.iterdir()} == {".ckpt"}


def test_a_training_that_starts_anew_removes_the_states_of_the_one_before(tmp_path):
    save(Checkpoints(tmp_path, resume=True), 1, 2)
    assert load(Checkpoints(tmp_path, resume=False)) is None
    assert files(tmp_path) == []


def test_trainings_that_share_a_folder_keep_their_own_states(tmp_path):
    save(Checkpoints(tmp_path, resume=True), 1, 2)
    save(Checkpoints(tmp_path, resume=True, course="round1"), 5, 6)
    assert load(Checkpoints(tmp_path, resume=True)) == 2
    assert load(Checkpoints(tmp_path, resume=True, course="round1")) == 6


@pytest.mark.parametrize("harm", [damage, alter])
def test_a_damaged_newest_state_is_left_out_with_a_warning(tmp_path, caplog, harm):
    save(Checkpoints(tmp_path, resume=True), 1, 2)
    damaged = files(tmp_path)[-1]
    harm(damaged)
    assert load(Checkpoints(tmp_path, resume=True)) == 1
    assert f"{damaged}: damaged checkpoint (its SHA-256 is not the one in its name). It is left out." in caplog.text


def test_damaged_states_do_not_take_the_places_of_good_ones(tmp_path):
    save(Checkpoints(tmp_path, resume=True), 1, 5)
    damage(files(tmp_path)[-1])
    again = Checkpoints(tmp_path, resume=True)
    assert load(again) == 1
    save(again, 2, 3)
    damage(files(tmp_path)[-1])
    assert load(Checkpoints(tmp_path, resume=True)) == 2


def test_where_every_state_is_damaged_it_is_said_what_to_do(tmp_path):
    save(Checkpoints(tmp_path, resume=True), 1, 2)
    for path in files(tmp_path):
        damage(path)
    with pytest.raises(
        ArtifactError, match=rf"^{tmp_path}: every checkpoint is damaged \(.*\)\. Start anew with --resume"
    ):
        load(Checkpoints(tmp_path, resume=True))


def test_a_state_whose_writing_fails_leaves_those_before_it_and_nothing_of_itself(tmp_path):
    checkpoints = Checkpoints(tmp_path, resume=True)
    save(checkpoints, 1)
    with pytest.raises(AttributeError, match="local object"):  # what cannot be pickled fails when half of it is written
        checkpoints.save(Position(2, 0), {"weights": torch.zeros(9), "function": lambda: None})
    assert load(checkpoints) == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".ckpt"]


def test_a_folder_that_cannot_be_written_is_an_error_before_the_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"checkpoints cannot be written to .*/file/run by user .*--checkpoints"):
        Checkpoints(tmp_path / "file" / "run", resume=True)


def test_a_store_keeps_as_many_states_as_the_folder(store, tmp_path):
    save(Checkpoints(tmp_path, resume=True, store=store), 1, 2, 3)
    assert sorted(again(store).open()) == [path.name for path in files(tmp_path)]
    assert len(files(tmp_path)) == 2


def test_the_state_that_is_furthest_counts_wherever_it_lies(store, tmp_path):
    save(Checkpoints(tmp_path / "one", resume=True, store=store), 1)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    save(Checkpoints(tmp_path / "two", resume=True, store=again(store)), 2)
    assert load(Checkpoints(tmp_path / "one", resume=True, store=again(store))) == 2
    save(Checkpoints(tmp_path / "one", resume=True), 3)  # when the store could not be reached
    assert load(Checkpoints(tmp_path / "one", resume=True, store=again(store))) == 3


def test_a_file_that_is_damaged_here_is_fetched_from_the_store(store, tmp_path):
    save(Checkpoints(tmp_path, resume=True, store=store), 1, 2)
    damage(files(tmp_path)[-1])
    assert load(Checkpoints(tmp_path, resume=True, store=again(store))) == 2


def test_starting_anew_clears_the_store_of_all_trainings(store, tmp_path):
    save(Checkpoints(tmp_path / "here", resume=True, store=store), 1)
    save(Checkpoints(tmp_path / "here", resume=True, store=again(store), course="round1"), 1)
    Checkpoints(tmp_path / "there", resume=False, store=again(store))
    assert list(again(store).open()) == []


def test_a_store_that_does_not_let_go_of_an_old_state_ends_no_training(store, s3_server, tmp_path, caplog):
    class Stubborn:
        """A real store that may not delete."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def drop(self, name: str) -> None:
            raise StorageError(f"{name}: AccessDenied")

    checkpoints = Checkpoints(tmp_path, resume=True, store=Stubborn())
    save(checkpoints, 1, 2, 3)
    assert "an old checkpoint cannot be removed: " in caplog.text
    assert load(Checkpoints(tmp_path, resume=True, store=again(store))) == 3


def test_a_state_that_was_altered_in_the_store_is_left_out_with_a_warning(store, s3_server, tmp_path, caplog):
    save(Checkpoints(tmp_path / "here", resume=True, store=store), 1, 2)
    name = files(tmp_path / "here")[-1].name
    key = f"{store.uri.removeprefix(f's3://{s3_server.bucket}/')}/{name}"
    found = s3_server.client.get_object(Bucket=s3_server.bucket, Key=key)
    cut = found["Body"].read()[:-1]
    s3_server.client.put_object(Bucket=s3_server.bucket, Key=key, Body=cut, Metadata=found["Metadata"])
    assert load(Checkpoints(tmp_path / "there", resume=True, store=again(store))) == 1
    assert f"{store.uri}/{name}: damaged checkpoint" in caplog.text


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


def test_the_root_of_a_volume_that_the_group_may_write_is_a_place_for_checkpoints(pipeline, tiny_params, home):
    with user_of_the_images():
        train(home, tiny_params)
    expected, written = pipeline.path("train_classifier", "classifier"), home / "classifier"
    assert (written / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert written.stat().st_uid == 1000
    left = [path.relative_to(home / "checkpoints").as_posix() for path in (home / "checkpoints").rglob("*")]
    assert sorted(left) == ["lost+found", "train_classifier"]


def test_a_volume_that_the_user_may_not_write_is_an_error_before_the_training(tiny_params, home, caplog):
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
