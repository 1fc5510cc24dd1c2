"""The images: how large they are, whose they are, what is in them, and what is not."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.conftest import IMAGES

pytestmark = pytest.mark.slow

MEGABYTE = 1_000_000
TARGETS = list(IMAGES)
SECRET_MARK = b"ctm-build-secret"
"""In the secrets that .ci/run hands to the builds."""


def test_the_data_image_is_smaller_than_700_mb(engine):
    assert engine.image("data").attrs["Size"] < 700 * MEGABYTE


def test_our_own_layers_of_the_train_image_are_smaller_than_400_mb(engine):
    layers = engine.layers("train")
    first = next(number for number, layer in enumerate(layers) if "PATH=/opt/ctm/bin" in layer["CreatedBy"])
    with_torch = [layer for layer in layers if "train:torch" in layer["CreatedBy"]]
    assert first > 0, "there is no base"
    assert len(with_torch) == 1
    assert sum(layer["Size"] for layer in layers[first:]) - with_torch[0]["Size"] < 400 * MEGABYTE


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_what_it_is_and_of_which_revision(engine, target):
    config = engine.image(target).attrs["Config"]
    labels = config["Labels"]
    revision = labels["org.opencontainers.image.revision"]
    assert len(bytes.fromhex(revision.removesuffix("-dirty"))) == 20
    assert f"CTM_GIT_REVISION={revision}" in config["Env"]
    assert labels["org.opencontainers.image.title"] == "ctm"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Entrypoint"] is None
    assert config["Cmd"] == ["ctm", "--help"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_container_is_user_1000_of_group_0_and_shows_the_help(engine, target):
    assert engine.succeed(target, "sh", "-c", "id -u; id -g; id -G") == "1000\n0\n0"
    assert "preprocess" in engine.run(target).text


@pytest.mark.parametrize("target", TARGETS)
def test_any_user_of_group_0_can_work_in_a_container_that_cannot_be_changed(engine, target):
    """As on OpenShift, which chooses a user id by itself."""
    script = "import getpass, pathlib; pathlib.Path.home().joinpath('x').write_text('x'); print(getpass.getuser())"
    rights = {"user": "123456:0", "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
    assert engine.succeed(target, "python", "-c", script, **rights) == "ctm"
    unwritable = engine.succeed(target, "sh", "-c", "find / -xdev -type f -writable 2>/dev/null | head", **rights)
    assert unwritable == ""
    text = engine.succeed(target, "ctm-entrypoint", "describe", "--help", read_only=True, **rights)
    assert "Size of the classifier" in text


@pytest.mark.parametrize("target", TARGETS)
def test_neither_git_nor_dvc_nor_kfp_nor_pip_is_in_an_image(engine, target):
    absent = {"dvc", "kfp", "docker", "pip", "pytest", "components", "pipelines"}
    absent |= {"torch", "timm", "scipy", "matplotlib"} if target == "data" else {"rasterio", "pycocotools"}
    script = f"import importlib.util as u; print(sorted(n for n in {sorted(absent)} if u.find_spec(n)))"
    assert engine.succeed(target, "python", "-c", script) == "[]"
    assert engine.run(target, "sh", "-c", "command -v git dvc gcc").code != 0


def test_preprocess_imports_no_torch_and_runs_where_there_is_none(engine, tmp_path):
    script = "import sys; import ctm.stages.preprocess, ctm.cli, rasterio, boto3, pycocotools.mask; print(*sys.modules)"
    modules = {name.partition(".")[0] for name in engine.succeed("data", "python", "-c", script).split()}
    assert {"ctm", "numpy", "rasterio"} <= modules
    assert not {"torch", "torchvision", "timm", "lightning_fabric"} & modules


def test_what_the_train_image_needs_can_be_imported(engine):
    script = (
        "import ctm.stages.train_classifier, ctm.stages.evaluate, ctm.training.segmenter, ctm.models.segmenter, "
        "ctm.evaluation.figures, matplotlib.figure, boto3, torch; print(torch.__version__)"
    )
    assert engine.succeed("train", "python", "-c", script)


@pytest.mark.parametrize("target", TARGETS)
def test_what_ci_hands_to_a_build_as_a_secret_is_in_no_layer_and_not_in_the_history(engine, target):
    assert not list(_places_of(engine, IMAGES[target], SECRET_MARK))


def test_no_secret_and_nothing_of_the_environment_of_a_build_is_in_the_image(engine, repository, tmp_path):
    """A build of its own, of the layers that both images begin with: the cache would not have seen the secrets."""
    marks = {name: f"mark-of-{name}-{os.urandom(8).hex()}" for name in ("ca", "pip", "environment")}
    bundle = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    secrets = []
    for name, content in (("ca", Path(bundle).read_text() if bundle else ""), ("pip", "")):
        file = tmp_path / name
        file.write_text(f"# {marks[name]}\n{content}")
        secrets += ["--secret", f"id={name},src={file}"] if content or name == "pip" else []
    tag = f"ctm-secret-{os.urandom(4).hex()}"
    client = os.environ.get("DOCKER", "docker")
    command = [client, "build", "--no-cache", "--network", "host", "--file", "docker/Dockerfile", "--target", "core"]
    environment = os.environ | {"DOCKER_BUILDKIT": "1", "CTM_PASSWORD": marks["environment"]}
    built = subprocess.run(
        [*command, "--tag", tag, *secrets, "."], cwd=repository, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr[-3000:]
    try:
        for mark in marks.values():
            assert not list(_places_of(engine, tag, mark.encode()))
        assert list(_places_of(engine, tag, b"pydantic")), "the search finds nothing at all"
    finally:
        engine.client.images.remove(tag, force=True)


def _places_of(engine, image: str, wanted: bytes) -> Iterator[str]:
    """Where a saved image holds some bytes: its configuration and history, and every file of every layer."""
    inspected = json.dumps([engine.client.images.get(image).attrs, engine.client.images.get(image).history()])
    if wanted in inspected.encode():
        yield "history"
    stream = _Stream(engine.client.images.get(image).save())
    with tarfile.open(fileobj=stream, mode="r|") as saved:
        for member in saved:
            file = saved.extractfile(member)
            if file is not None and _holds(file, wanted):
                yield member.name


class _Stream:
    """The pieces of a download as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (chunk := next(self._chunks, b"")):
            self._rest += chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _holds(file, wanted: bytes) -> bool:
    """Whether a file of a saved image holds some bytes; layers are tar archives, which some engines compress."""
    tail = b""
    for chunk in _unpacked(file):
        if wanted in tail + chunk:
            return True
        tail = chunk[-len(wanted) :]
    return False


def _unpacked(file, *, size: int = 1 << 22) -> Iterator[bytes]:
    chunk = file.read(size)
    unpack = zlib.decompressobj(wbits=31).decompress if chunk.startswith(b"\x1f\x8b") else bytes
    while chunk:
        yield unpack(chunk)
        chunk = file.read(size)
