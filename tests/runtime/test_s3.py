"""Reading from S3, from a real server: whole and unchanged objects, or one clear error."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import pickle
import random
import socket
import socketserver
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="needs the extra 'data'")

from ctm.errors import StorageError
from ctm.runtime import s3_place
from ctm.runtime.storage import LocalTree, listing_digest, open_tree
from tests.runtime.conftest import change_environment, folder
from tests.seaweed import SeaweedServer

MB = 2**20


@pytest.fixture
def prefix() -> str:
    """A place in the bucket for this test alone."""
    return f"runtime/{uuid.uuid4().hex}"


Harm = Callable[[int, int, bytes], bytes]
"""What a bad line makes of a piece of the server's answers, given the number of the connection, counted from 0, and how
many bytes have come over it; if it makes the piece shorter, the line goes dead after it."""


@contextmanager
def bad_line(server: SeaweedServer, harm: Harm = lambda number, carried, data: data) -> Iterator[list[bytes]]:
    """Inside, whoever asks S3 asks over a line that harms what comes back.

    Yields:
        what was asked over it, piece by piece.
    """
    requests: list[bytes] = []
    numbers, target = itertools.count(), ("127.0.0.1", int(server.endpoint.rpartition(":")[2]))

    def ask(near: socket.socket, far: socket.socket) -> None:
        try:
            while data := near.recv(65536):
                requests.append(data)
                far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other direction has hung up

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            near, number, carried = self.request, next(numbers), 0
            with socket.create_connection(target) as far:
                threading.Thread(target=ask, args=(near, far), daemon=True).start()
                while data := far.recv(65536):
                    harmed = harm(number, carried, data)
                    carried += len(data)
                    near.sendall(harmed)
                    if len(harmed) < len(data):
                        near.shutdown(socket.SHUT_RDWR)
                        return

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 64

    with Listener(("127.0.0.1", 0), Connection) as listener, pytest.MonkeyPatch.context() as patch:
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{listener.server_address[1]}")
        try:
            yield requests
        finally:
            listener.shutdown()
            thread.join()


def random_bytes(size: int, *, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def small_objects(count: int, *, size: int = 1000) -> dict[str, bytes]:
    return {f"images/{number:04d}.bin": random_bytes(size, seed=number) for number in range(count)}


# what is there


def test_objects_are_listed_by_their_keys_below_the_prefix_in_ascending_order(s3_server, prefix):
    uri = s3_server.put(prefix, {"b/2.bin": b"22", "a.txt": b"1", "b.txt": b"", "b/10.bin": b"333"})
    tree = open_tree(uri)
    sizes = [(path, stat.size) for path, stat in tree.files.items()]
    assert sizes == [("a.txt", 1), ("b.txt", 0), ("b/10.bin", 3), ("b/2.bin", 2)]
    assert open_tree(f"{uri}/").files == tree.files
    assert tree.place("b/2.bin") == f"{uri}/b/2.bin"
    assert not tree.refused


def test_more_objects_than_one_answer_lists_are_all_listed_and_read(s3_server, prefix):
    objects = small_objects(1050)
    tree = open_tree(s3_server.put(prefix, objects))
    assert list(tree.files) == sorted(objects)
    assert tree.read_all(tree.files) == objects


def test_a_prefix_ends_where_a_folder_ends_and_a_whole_bucket_is_a_tree_as_well(s3_server, prefix):
    s3_server.put(prefix, {"data/a.txt": b"1", "data2/a.txt": b"2", "data.txt": b"3"})
    assert list(open_tree(f"s3://{s3_server.bucket}/{prefix}/data").files) == ["a.txt"]
    assert f"{prefix}/data2/a.txt" in open_tree(f"s3://{s3_server.bucket}").files


def test_hidden_objects_and_marks_of_folders_are_no_files(s3_server, prefix):
    objects = {"a.txt": b"1", ".hidden": b"2", ".git/config": b"3", "b/.hidden": b"4", "b/": b""}
    tree = open_tree(s3_server.put(prefix, objects))
    assert list(tree.files) == ["a.txt"]
    assert not tree.refused


@pytest.mark.parametrize("part", [b"..", b"./", b"//"])
def test_keys_that_no_path_can_have_are_refused(s3_server, prefix, part: bytes):
    s3_server.put(prefix, {"good.txt": b"1", "up/@@/bad.txt": b"2"})
    # The server itself takes no such key.
    with bad_line(s3_server, lambda number, carried, data: data.replace(b"@@", part)):
        tree = open_tree(f"s3://{s3_server.bucket}/{prefix}")
        assert list(tree.files) == ["good.txt"]
        assert ["'..'" in reason for reason in tree.refused.values()] == [True]


def test_the_same_data_have_the_same_listing_digest_in_a_folder_and_in_a_bucket(s3_server, prefix, tmp_path):
    folder(tmp_path, **{"images/a": "1", "b": "22"})
    local, remote = LocalTree(str(tmp_path)), open_tree(s3_server.upload(prefix, tmp_path))
    assert listing_digest(local) == listing_digest(remote)
    assert listing_digest(remote, stamps=True) != listing_digest(remote)


# reading


def test_objects_are_read_in_the_order_asked_for(s3_server, prefix):
    objects = small_objects(30)
    tree = open_tree(s3_server.put(prefix, objects))
    backwards = dict(reversed(tree.files.items()))
    contents = tree.read_all(backwards)
    assert contents == objects
    assert list(contents) == list(backwards)
    assert tree.read_all({}) == {}


@pytest.mark.parametrize("name", ["with blank.jpg", "a+b&c=d?e#f%20.jpg", "Bäume/日本 (1).jpg", "empty"])
def test_any_name_can_be_read(s3_server, prefix, name):
    data = b"" if name == "empty" else name.encode()
    tree = open_tree(s3_server.put(prefix, {name: data}))
    assert tree.read_all(tree.files) == {name: data}
    assert open_tree(tree.uri).read(name) == data  # without a listing


@pytest.mark.parametrize("in_parts", [False, True], ids=["one upload", "upload in parts"])
def test_large_objects_are_read_by_ranges(s3_server, prefix, in_parts: bool):
    data = random_bytes(20 * MB + 1)
    uri = s3_server.put(prefix, {"small.bin": b"1", "large.bin": b"" if in_parts else data})
    if in_parts:
        s3_server.client.upload_fileobj(io.BytesIO(data), s3_server.bucket, f"{prefix}/large.bin")
    with bad_line(s3_server) as requests:
        tree = open_tree(uri)
        assert ("-" in tree.files["large.bin"].stamp) == in_parts
        contents = tree.read_all(tree.files)
        assert contents["large.bin"] == data
        assert tree.read("large.bin") == data
    asked = b"".join(requests).lower()
    for first, last in ((0, 8 * MB - 1), (8 * MB, 16 * MB - 1), (16 * MB, 20 * MB)):
        assert asked.count(f"range: bytes={first}-{last}\r\n".encode()) == 2
    assert f"get /{s3_server.bucket}/{prefix}/small.bin ".encode() in asked, "the address is path-style"


def test_objects_come_side_by_side(s3_server, prefix):
    objects = small_objects(100)
    uri = s3_server.put(prefix, objects)

    def far_away(number: int, carried: int, data: bytes) -> bytes:
        time.sleep(0.05)
        return data

    with bad_line(s3_server, far_away):
        tree = open_tree(uri)
        files = tree.files
        start = time.perf_counter()
        assert tree.read_all(files) == objects
    assert time.perf_counter() - start < 0.05 * len(objects) / 2


def test_a_tree_is_sent_to_another_process_without_its_listing(s3_server, prefix):
    objects = small_objects(20)
    tree = open_tree(s3_server.put(prefix, objects))
    files = tree.files
    sent = pickle.dumps(tree)
    assert len(sent) < 300
    assert pickle.loads(sent) is pickle.loads(sent), "a process needs one set of connections"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(tree.read_all, files).result() == objects


# what has changed


@pytest.mark.parametrize("size", [1000, 20 * MB], ids=["small", "large"])
@pytest.mark.parametrize("growth", [0, 1], ids=["same size", "longer"])
def test_an_object_that_was_replaced_after_the_listing_is_an_error(s3_server, prefix, size, growth):
    tree = open_tree(s3_server.put(prefix, {"a.bin": random_bytes(size), "b.bin": b"1"}))
    files = tree.files
    s3_server.put(prefix, {"a.bin": random_bytes(size + growth, seed=1)})
    for read in (lambda: tree.read_all(files), lambda: tree.read("a.bin")):
        with pytest.raises(StorageError, match=rf"^s3://.*{prefix}/a.bin has changed since it was listed"):
            read()
    assert len(open_tree(tree.uri).read("a.bin")) == size + growth


def test_a_storage_that_ignores_if_match_does_not_hide_a_change(s3_server, prefix):
    tree = open_tree(s3_server.put(prefix, {"a.bin": random_bytes(1000)}))
    files = tree.files
    old, new = files["a.bin"].stamp.encode(), b"0" * 32
    line = bad_line(s3_server, lambda number, carried, data: data.replace(old, new))
    with line, pytest.raises(StorageError, match=r"a\.bin has changed since it was listed"):
        open_tree(tree.uri).read_all(files)


def test_an_object_that_is_gone_is_an_error(s3_server, prefix):
    tree = open_tree(s3_server.put(prefix, {"a.bin": b"1", "b.bin": b"2"}))
    files = tree.files
    s3_server.client.delete_object(Bucket=s3_server.bucket, Key=f"{prefix}/a.bin")
    with pytest.raises(StorageError, match=r"a\.bin does not exist$"):
        tree.read_all(files)
    with pytest.raises(StorageError, match=r"c\.bin does not exist$"):
        tree.read("c.bin")


# bad lines


def cut_off(connections: int, *, after: int = 50_000) -> Harm:
    """The first connections go dead after so many bytes."""

    def harm(number: int, carried: int, data: bytes) -> bytes:
        return data[: after - carried] if number < connections and carried + len(data) > after else data

    return harm


def flipped(*, always: bool, hide_checksum: bool) -> Harm:
    """One bit of the first object that a connection carries is wrong, or one of every object."""

    def harm(number: int, carried: int, data: bytes) -> bytes:
        if hide_checksum:
            data = data.replace(b"X-Amz-Checksum-", b"X-Amz-Nonsense-").replace(b"x-amz-checksum-", b"x-amz-nonsense-")
        if len(data) > 5000 if always else carried < 50_000 <= carried + len(data):
            data = data[:-1] + bytes([data[-1] ^ 1])
        return data

    return harm


OBJECTS = {"a.bin": random_bytes(100_000), "b.bin": random_bytes(100_000, seed=1)}


@pytest.fixture
def read_over(s3_server, prefix, monkeypatch) -> Callable[[Harm], dict[str, bytes]]:
    """Reads the two objects, which have been listed over a good line, over a bad one."""
    tree = open_tree(s3_server.put(prefix, OBJECTS))
    files = tree.files
    monkeypatch.setattr(s3_place, "LONGEST_WAIT", 0.01)

    def read(harm: Harm) -> dict[str, bytes]:
        with bad_line(s3_server, harm):
            return open_tree(tree.uri).read_all(files)

    return read


@pytest.mark.parametrize(
    "harm",
    [cut_off(4), flipped(always=False, hide_checksum=False), flipped(always=False, hide_checksum=True)],
    ids=["cut off", "wrong checksum", "wrong MD5"],
)
def test_an_answer_that_breaks_off_or_is_damaged_is_asked_for_again(read_over, harm):
    assert read_over(harm) == OBJECTS


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_off(1000), r"a\.bin could not be read whole from http://127.* same command goes on"),
        (flipped(always=True, hide_checksum=False), r"a\.bin could not be read whole from http://127.*checksum"),
        (flipped(always=True, hide_checksum=True), r"a\.bin is damaged.*MD5.*upload it again"),
    ],
    ids=["cut off", "wrong checksum", "wrong MD5"],
)
def test_an_object_whose_answers_are_always_broken_or_damaged_is_an_error(read_over, harm, message):
    with pytest.raises(StorageError, match=message):
        read_over(harm)


def test_a_listing_that_breaks_off_is_asked_for_again(s3_server, prefix, monkeypatch):
    objects = small_objects(50, size=10)
    uri = s3_server.put(prefix, objects)
    monkeypatch.setattr(s3_place, "LONGEST_WAIT", 0.01)
    with bad_line(s3_server, cut_off(2, after=5000)):
        assert list(open_tree(uri).files) == sorted(objects)


# who asks, and whom


def test_credentials_and_endpoint_come_from_aws_own_files(s3_server, prefix, monkeypatch, tmp_path):
    uri = s3_server.put(prefix, {"a.txt": b"1"})
    config, credentials = tmp_path / "config", tmp_path / "credentials"
    config.write_text(
        "[profile cluster]\nregion = eu-west-1\nservices = cluster\n"
        f"[services cluster]\ns3 =\n  endpoint_url = {s3_server.endpoint}\n"
    )
    key, secret = s3_server.environment["AWS_ACCESS_KEY_ID"], s3_server.environment["AWS_SECRET_ACCESS_KEY"]
    credentials.write_text(f"[cluster]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_PROFILE", "cluster")
    assert open_tree(uri).read("a.txt") == b"1"
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(StorageError, match=r"AWS configuration cannot be used.*profile \(other\)"):
        open_tree(uri).read("a.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses access .SignatureDoesNotMatch.*Set AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "refuses access .InvalidAccessKeyId.*Set AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": None, "AWS_ACCESS_KEY_ID": None}, "no credentials for http.*Set AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "AWS configuration cannot be used.*missing: AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL_S3": "cluster:9000"}, "AWS configuration cannot be used: Invalid endpoint"),
        ({"AWS_MAX_ATTEMPTS": "many"}, "AWS configuration cannot be used.*many"),
    ],
)
def test_whoever_has_no_access_is_told_so(s3_server, prefix, monkeypatch, change, message):
    uri = s3_server.put(prefix, {"a.txt": b"1"})
    change_environment(monkeypatch, change)
    for ask in (lambda tree: tree.files, lambda tree: tree.read("a.txt")):
        with pytest.raises(StorageError, match=f"^s3://{s3_server.bucket}/{prefix}.*{message}"):
            ask(open_tree(uri))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://", "'s3://' names no bucket"),
        ("s3:///data", "names no bucket"),
        ("s3://nowhere/data", "^s3://nowhere/data: http://127.* has no bucket 'nowhere'.*dataset.root"),
        ("s3://not a bucket/data", "^s3://not a bucket/data: 'not a bucket' is no name of a bucket"),
        ("s3://{bucket}/nothing", r"no object under prefix 'nothing/' of bucket '{bucket}'; set dataset.root"),
    ],
)
def test_an_address_without_data_is_an_error(s3_server, uri, message):
    uri, message = (text.replace("{bucket}", s3_server.bucket) for text in (uri, message))
    with pytest.raises(StorageError, match=message):
        _ = open_tree(uri).files


@pytest.mark.slow
def test_a_server_that_is_killed_is_an_error_and_one_that_is_back_is_read_on(s3_server, prefix, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    objects = small_objects(40)
    tree = open_tree(s3_server.put(prefix, objects))
    files = tree.files
    with s3_server.down():
        for ask in (lambda: tree.read_all(files), lambda: open_tree(tree.uri).files):
            with pytest.raises(StorageError, match=f"{s3_server.endpoint} cannot be reached.*same command goes on"):
                ask()
    assert tree.read_all(files) == objects


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_answers_is_an_error(s3_server, prefix, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    objects = {f"{number}.bin": random_bytes(4 * MB, seed=number) for number in range(10)}
    tree = open_tree(s3_server.put(prefix, objects))
    files = tree.files
    killer = threading.Timer(0.15, s3_server.kill)
    killer.start()
    try:
        with pytest.raises(StorageError, match=r"cannot be reached|could not be read whole"):
            _ = [tree.read_all(files) for _ in range(100)]
    finally:
        killer.join()
        s3_server.start()
    assert tree.read_all(files) == objects


def test_reading_without_boto3_says_what_to_install(tmp_path: Path):
    (tmp_path / "boto3.py").write_text("raise ModuleNotFoundError('No module named boto3', name='boto3')\n")
    code = "from ctm.runtime.storage import open_tree\nopen_tree('s3://bucket/data')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(s3_place.__file__).parents[2])])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "StorageError: data in s3:// need boto3, which is not installed: pip install 'ctm[data]'" in done.stderr
