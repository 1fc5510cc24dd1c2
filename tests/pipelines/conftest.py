"""A working tree with git, DVC and a remote, a Kubeflow server in small, and the command `ctm-pipeline` in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ctm.errors import CtmError
from ctm.params import Params, load_preset, to_yaml
from tests.pipelines.kubeflow_server import KubeflowServer, kubeflow_server

pytest.importorskip("kfp", reason="needs the extra 'kfp'")
pytest.importorskip("dvc", reason="needs the extra 'dvc'")

Call = Callable[..., str]
"""Runs a command; what it printed, or the message of its error."""

DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGE = f"registry.example.org/ctm/train@{DIGEST}"


@dataclass(frozen=True)
class Tree:
    """A working tree, the current folder of the test."""

    root: Path

    def run(self, *command: str) -> str:
        """Runs a command that must succeed."""
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def git(self, *arguments: str) -> str:
        """Runs git."""
        who = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
        return self.run("git", *who, *arguments)

    def dvc(self, *arguments: str) -> str:
        """Runs DVC."""
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def commit(self, message: str = "change") -> str:
        """Commits everything; the revision."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD").strip()


def make_tree(root: Path, *, overrides: tuple[str, ...] = ()) -> Tree:
    """A committed tree with params.yaml, a few raw files under DVC, and a remote that has them."""
    root.mkdir(parents=True)
    tree = Tree(root)
    tree.git("init", "--quiet", "--initial-branch", "main")
    tree.dvc("init", "--quiet")
    tree.dvc("remote", "add", "--quiet", "--default", "storage", str(root.with_name(f"{root.name}-remote")))
    (root / "params.yaml").write_text(to_yaml(load_preset("demo", overrides)), encoding="utf-8")
    (root / "data" / "demo").mkdir(parents=True)
    for number in range(3):
        (root / "data" / "demo" / f"{number}.tif").write_bytes(bytes(range(10 * (number + 1))))
    tree.dvc("add", "--quiet", "data/demo")
    tree.dvc("push", "--quiet")
    tree.commit("start")
    return tree


@pytest.fixture(scope="session")
def params() -> Params:
    """The parameters of the demo."""
    return load_preset("demo")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of kfp's own settings, and no report to DVC."""
    for name in [name for name in os.environ if name.startswith(("KF_PIPELINES", "KUBEFLOW"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The tree that tests copy, because DVC takes a second for each of its commands."""
    return make_tree(tmp_path_factory.mktemp("template") / "tree")


@pytest.fixture
def tree(template: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A working tree of the test's own, and its current folder."""
    root = tmp_path / "tree"
    shutil.copytree(template.root, root, symlinks=True)
    monkeypatch.chdir(root)
    return Tree(root)


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    """A Kubeflow server."""
    with kubeflow_server() as running:
        yield running


@pytest.fixture
def call() -> Callable[..., Result]:
    """Runs `ctm-pipeline` within this process."""
    from pipelines.cli import app

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def succeed(call: Callable[..., Result]) -> Call:
    """What a command prints that must succeed."""

    def run(*arguments: object) -> str:
        result = call(*arguments)
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
        return result.stdout

    return run


@pytest.fixture
def fail(call: Callable[..., Result]) -> Call:
    """The message of an error that `main` shows as one."""

    def run(*arguments: object) -> str:
        result = call(*arguments)
        assert isinstance(result.exception, CtmError), f"{result.output}\n{result.exception!r}"
        return str(result.exception)

    return run
