"""The Docker engine and the images of `make images`; without them tests are skipped, or fail where CI asks for them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
from docker.client import DockerClient
from docker.errors import DockerException, ImageNotFound

from ctm.fingerprint import package_digest
from pipelines import local_runner

REQUIRED = "CTM_REQUIRE_CONTAINERS"
"""CI sets it: then nothing here may be skipped."""

IMAGES = {"data": "ctm-data", "train": "ctm-train"}
"""What `make images` makes of each target."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are marked."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("containers")


class Ended(NamedTuple):
    """A container that has run to its end: its exit code, and what it wrote to both of its outputs."""

    code: int
    text: str


class Engine:
    """The Docker engine of this machine."""

    def __init__(self, client: DockerClient) -> None:
        self.client = client

    def image(self, target: str) -> Any:
        """The image of a target of docker/Dockerfile."""
        return self.client.images.get(IMAGES[target])

    def run(self, target: str, *command: str, **arguments: Any) -> Ended:
        """Runs a command in a container without a network, to its end."""
        chosen = {"network_mode": "none", "detach": True, **arguments}
        container = self.client.containers.run(self.image(target).id, list(command), **chosen)
        try:
            code = container.wait(timeout=300)["StatusCode"]
            return Ended(code, container.logs().decode())
        finally:
            container.remove(force=True)

    def succeed(self, target: str, *command: str, **arguments: Any) -> str:
        """Runs a command that must succeed; what it wrote."""
        ended = self.run(target, *command, **arguments)
        assert ended.code == 0, ended.text
        return ended.text.strip()

    def layers(self, target: str) -> list[Mapping[str, Any]]:
        """The history of an image, the base first."""
        return list(reversed(self.image(target).history()))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine that has the images of the working tree."""
    client = None
    try:
        client = DockerClient.from_env(timeout=600)
        client.ping()
        _check_images(Engine(client))
        yield Engine(client)
    except DockerException as error:
        _missing(f"no Docker engine answers: {error}")
    finally:
        if client is not None:
            client.close()


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines of the runner's log."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = local_runner.logger, Keep()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(before)


def _check_images(engine: Engine) -> None:
    """They must be there, and of the very code that is tested."""
    code = "from ctm.fingerprint import package_digest; print(package_digest())"
    for target, name in IMAGES.items():
        try:
            found = engine.succeed(target, "python", "-c", code)
        except ImageNotFound:
            _missing(f"the Docker engine has no image {name}: run `make images`")
        if found != package_digest():
            _missing(f"the image {name} is of other code than the working tree: run `make images`")


def _missing(reason: str) -> NoReturn:
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, but {reason}", pytrace=False)
    pytest.skip(reason)
