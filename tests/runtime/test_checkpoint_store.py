"""Checkpoints in a bucket, of a real server: whole and as they were put, or one clear error before the work begins."""

from __future__ import annotations

import hashlib
import logging
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="needs the extra 'data'")

from boto3.s3.transfer import TransferConfig

from ctm.errors import ArtifactError, StorageError
from ctm.runtime import s3_place
from ctm.runtime.checkpoint_store import WORKING_FOLDER, CheckpointStore, end_checkpoints, open_checkpoints
from tests.runtime.conftest import change_environment
from tests.seaweed import SeaweedServer

MB = 2**20
KEY = "train_classifier/0123456789abcdef"


@pytest.fixture
def place(s3_server: SeaweedServer) -> str:
    """An address in the bucket for this test alone."""
    return f"s3://{s3_server.bucket}/checkpoints/{uuid.uuid4().hex}"


@pytest.fixture
def store(place: str) -> CheckpointStore:
    return new_store(place)


def kept(store: CheckpointStore, file: Path, size: int = 1000, *, seed: int = 0) -> bytes:
    """The contents of a new file that has been put."""
    data = write(file, size, seed=seed)
    store.put(file)
    return data


def new_store(place: str, run: str = KEY) -> CheckpointStore:
    store = open_checkpoints(place, run)[1]
    assert store is not None
    return store


def write(path: Path, size: int = 1000, *, seed: int = 0) -> bytes:
    data = random.Random(seed).randbytes(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def keys(server: SeaweedServer, place: str) -> dict[str, int]:
    prefix = place.removeprefix(f"s3://{server.bucket}/")
    found = server.client.list_objects_v2(Bucket=server.bucket, Prefix=prefix).get("Contents", ())
    return {entry["Key"].removeprefix(f"{prefix}/"): entry["Size"] for entry in found}


# where


def test_a_folder_needs_no_store_and_names_the_run():
    assert open_checkpoints(Path("ckpt"), KEY) == (Path("ckpt", KEY), None)
    assert open_checkpoints("/mnt/ckpt", KEY) == (Path("/mnt/ckpt", KEY), None)


def test_a_place_in_s3_has_a_working_folder_and_makes_no_request_before_it_is_used(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    for place in ("s3://bucket/some/prefix", "s3://bucket/some/prefix/"):
        folder, store = open_checkpoints(place, KEY)
        assert folder == WORKING_FOLDER / KEY
        assert store is not None
        assert store.uri == f"s3://bucket/some/prefix/{KEY}"
        end_checkpoints(folder, store)  # of a stage that kept nothing


def test_the_bucket_alone_is_a_place(s3_server, tmp_path):
    run = f"train_classifier/{uuid.uuid4().hex[:16]}"
    store = new_store(f"s3://{s3_server.bucket}", run)
    store.open()
    kept(store, tmp_path / "last.ckpt")
    assert list(keys(s3_server, f"s3://{s3_server.bucket}/{run}")) == ["last.ckpt"]
    store.clear()


def test_an_address_without_a_bucket_is_refused():
    with pytest.raises(StorageError, match="names no bucket"):
        open_checkpoints("s3://", KEY)


# keeping


@pytest.mark.parametrize("size", [0, 1000, 17 * MB + 1], ids=["empty", "small", "in parts"])
def test_what_is_put_on_one_machine_is_had_on_another(store, place, s3_server, tmp_path, monkeypatch, size: int):
    monkeypatch.setattr(s3_place, "TRANSFER", TransferConfig(multipart_threshold=5 * MB, multipart_chunksize=5 * MB))
    assert store.open() == []
    data = kept(store, tmp_path / "here" / "last.ckpt", size)
    assert keys(s3_server, place) == {f"{KEY}/last.ckpt": size}
    other = new_store(place)
    assert list(other.open()) == ["last.ckpt"]
    other.get(tmp_path / "there" / "last.ckpt")
    assert (tmp_path / "there" / "last.ckpt").read_bytes() == data
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["last.ckpt"]


def test_a_dropped_file_is_gone_and_the_others_are_kept(store, place, s3_server, tmp_path):
    for name in ("one.ckpt", "two.ckpt"):
        kept(store, tmp_path / name)
    store.drop("one.ckpt")
    assert list(keys(s3_server, place)) == [f"{KEY}/two.ckpt"]


def test_a_later_state_takes_the_place_of_the_one_before(store, tmp_path):
    for seed in (1, 2):
        data = kept(store, tmp_path / "last.ckpt", 2000 - seed, seed=seed)
    (tmp_path / "last.ckpt").unlink()
    store.get(tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == data


def test_a_state_that_is_here_already_is_not_fetched_and_another_is(store, tmp_path, caplog):
    caplog.set_level(logging.INFO, "ctm")
    data = kept(store, tmp_path / "last.ckpt")
    store.get(tmp_path / "last.ckpt")
    assert "fetching" not in caplog.text
    write(tmp_path / "last.ckpt", seed=1)
    store.get(tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == data
    assert f"fetching {store.uri}/last.ckpt" in caplog.text


# what has come to harm


@pytest.mark.parametrize(
    "harm",
    [
        lambda data, digest: (data[:-1], digest),
        lambda data, digest: (bytes([data[0] ^ 1]) + data[1:], digest),
        lambda data, digest: (b"", digest),
        lambda data, digest: (data, {}),
    ],
    ids=["cut", "altered", "emptied", "without digest"],
)
def test_a_state_that_is_not_as_it_was_put_is_an_error(store, s3_server, tmp_path, harm: Callable):
    data = kept(store, tmp_path / "here" / "last.ckpt")
    body, metadata = harm(data, {"sha256": hashlib.sha256(data).hexdigest()})
    key = store.uri.removeprefix(f"s3://{s3_server.bucket}/") + "/last.ckpt"
    s3_server.client.put_object(Bucket=s3_server.bucket, Key=key, Body=body, Metadata=metadata)
    message = rf"^{store.uri}/last.ckpt: damaged checkpoint .*SHA-256.*recorded with it\)\.$"
    with pytest.raises(ArtifactError, match=message):
        store.get(tmp_path / "there" / "last.ckpt")
    assert not list((tmp_path / "there").iterdir())


UPLOAD = """
import sys
from pathlib import Path
from boto3.s3.transfer import TransferConfig
from ctm.runtime import s3_place
from ctm.runtime.checkpoint_store import open_checkpoints

s3_place.TRANSFER = TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20)
store = open_checkpoints(sys.argv[1], sys.argv[2])[1]
store.open()
print("begun", flush=True)
store.put(Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_an_upload_that_is_killed_leaves_the_state_before_it_and_its_remains_are_removed(
    store, place, s3_server, tmp_path
):
    store.open()
    data = kept(store, tmp_path / "here" / "last.ckpt")
    write(tmp_path / "here" / "last.ckpt", 200 * MB, seed=1)
    command = [sys.executable, "-c", UPLOAD, place, KEY, str(tmp_path / "here" / "last.ckpt")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    prefix = store.uri.removeprefix(f"s3://{s3_server.bucket}/")

    def uploads() -> list:
        return s3_server.client.list_multipart_uploads(Bucket=s3_server.bucket, Prefix=prefix).get("Uploads", [])

    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        while process.poll() is None and not uploads():
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    assert uploads(), "the upload had ended before it was killed"
    assert keys(s3_server, place) == {f"{KEY}/last.ckpt": 1000}
    store.get(tmp_path / "there" / "last.ckpt")
    assert (tmp_path / "there" / "last.ckpt").read_bytes() == data
    store.clear()
    assert not uploads()
    assert not keys(s3_server, place)


# who may not


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses access .SignatureDoes.*Set AWS_ACCESS_KEY_ID.*list, read"),
        ({"AWS_SECRET_ACCESS_KEY": None, "AWS_ACCESS_KEY_ID": None}, "no credentials for http.*Set AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, "http://127.* cannot be reached"),
    ],
    ids=["wrong secret", "no credentials", "unreachable"],
)
def test_whoever_cannot_keep_checkpoints_there_is_told_so_when_the_store_is_opened(store, monkeypatch, change, message):
    change_environment(monkeypatch, change)
    with pytest.raises(StorageError, match=f"^{store.uri}.*{message}"):
        store.open()
    assert not store.is_used


def test_a_bucket_that_is_not_there_is_named_with_the_option(s3_server):
    store = new_store("s3://nowhere/checkpoints")
    message = r"has no bucket 'nowhere'.*Check --checkpoints\. Checkpoints there take the"
    with pytest.raises(StorageError, match=message):
        store.open()


@pytest.mark.slow
def test_a_server_that_is_down_is_an_error_and_what_was_kept_before_still_is(store, s3_server, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store.open()
    data = kept(store, tmp_path / "last.ckpt")
    write(tmp_path / "last.ckpt", seed=1)
    with s3_server.down(), pytest.raises(StorageError, match=r"cannot be reached.*the same command goes on from there"):
        store.put(tmp_path / "last.ckpt")
    store.get(tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == data


# the end


def test_the_end_removes_this_run_and_no_other(store, place, s3_server, tmp_path):
    write(tmp_path / "last.ckpt")
    other = new_store(place, f"{KEY}0")
    for one in (store, other):
        one.open()
        one.put(tmp_path / "last.ckpt")
    end_checkpoints(tmp_path, store)
    assert not tmp_path.exists()
    assert list(keys(s3_server, place)) == [f"{KEY}0/last.ckpt"]


@pytest.mark.slow
def test_checkpoints_that_cannot_be_removed_are_no_error_any_more(store, s3_server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store.open()
    with s3_server.down():
        end_checkpoints(tmp_path, store)
    assert f"remove {store.uri} yourself, it is not needed any more: {store.uri}: {s3_server.endpoint}" in caplog.text
