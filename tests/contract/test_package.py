"""The package: built without a network, it holds what it needs, and works in an empty folder far from any checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import ctm
from ctm.stages import STAGES

PACKAGES = ("ctm", "components", "pipelines")

Run = Callable[..., str]


def succeed(*words: object, **about: Any) -> str:
    """Runs a command; what it wrote to both of its outputs."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, **about)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the source distribution, and of the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    said = succeed(sys.executable, "-W", "error", "-m", "build", "--no-isolation", "--outdir", folder, repository)
    assert "warning" not in said.lower()
    files = sorted(file.name for file in folder.iterdir())
    assert files == [f"ctm-{ctm.__version__}-py3-none-any.whl", f"ctm-{ctm.__version__}.tar.gz"]
    return folder


@pytest.fixture(scope="module")
def source(built: Path) -> set[str]:
    """The files of the source distribution."""
    with tarfile.open(*built.glob("*.tar.gz")) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(built: Path, source: set[str]):
    with zipfile.ZipFile(*built.glob("*.whl")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {name for name in source if name.startswith(tuple(f"{package}/" for package in PACKAGES))}
    assert {"ctm/py.typed", "ctm/presets/demo.yaml", "pipelines/profiles.yaml", "pipelines/ctm.yaml"} <= names


def test_the_source_distribution_holds_what_tests_need_and_nothing_that_serves_a_clone_alone(
    repository: Path, source: set[str]
):
    tests = {file.relative_to(repository).as_posix() for file in (repository / "tests").rglob("*.py")}
    needed = {"Makefile", "constraints.txt", "dvc.yaml", "params.yaml", ".dvc/config", ".github/workflows/ci.yml"}
    assert tests | needed | {"LICENSE", "docker/Dockerfile", "bench/__main__.py", "PKG-INFO"} <= source
    assert not [name for name in source if name.startswith(".ci/") or name.endswith(".pyc")]
    workflows = {f".github/workflows/{file.name}" for file in (repository / ".github/workflows").iterdir()}
    assert {name for name in source if name.startswith(".github/")} <= workflows


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command in an environment that has the wheel, sees the present libraries, and knows of no checkout."""
    root = tmp_path_factory.mktemp("installed")
    succeed(sys.executable, "-m", "venv", "--without-pip", root)
    programs, packages = (
        Path(sysconfig.get_path(name, "venv", vars={"base": str(root)})) for name in ("scripts", "purelib")
    )
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "--disable-pip-version-check")
    succeed(*pip, "install", "--quiet", "--no-index", "--no-deps", *built.glob("*.whl"))
    present = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    (packages / "present.pth").write_text("\n".join(present))  # a path alone: their own .pth files are not followed
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(*words: object, cwd: Path) -> str:
        return succeed(programs / str(words[0]), *words[1:], cwd=cwd, env=environment)

    code = f"import {', '.join(PACKAGES)}; print(ctm.__file__, components.__file__, pipelines.__file__)"
    places = run("python", "-c", code, cwd=root).split()
    assert places == [str(packages / package / "__init__.py") for package in PACKAGES]
    return run


@pytest.mark.slow
def test_who_has_the_wheel_alone_runs_the_pipeline_in_a_folder_of_their_own(
    installed: Run, tmp_path: Path, demo_raw: Path, tiny_overrides: tuple[str, ...]
):
    def run(*words: object) -> str:
        return installed(*words, cwd=tmp_path)

    assert run("ctm", "--version") == f"ctm {ctm.__version__}\n"
    settings = [f"--set={override}" for override in (f"dataset.root={demo_raw}", *tiny_overrides)]
    run("ctm", "init", "demo", *settings)
    run("ctm", "sync")
    run("python", "-m", "dvc", "init", "--quiet", "--no-scm")
    run("python", "-m", "dvc", "repro", "--quiet", "preprocess")
    assert (tmp_path / "artifacts/shards/index.json").is_file()
    upgraded = (tmp_path / "dvc.yaml").read_text().replace(f"ctm={ctm.__version__}", "ctm=99")
    (tmp_path / "dvc.yaml").write_text(upgraded)
    status = json.loads(run("python", "-m", "dvc", "status", "--json", "preprocess"))
    assert status == {"preprocess": ["changed command"]}


@pytest.mark.slow
def test_who_has_the_wheel_alone_compiles_the_pipelines(installed: Run, tmp_path: Path, repository: Path):
    (tmp_path / "params.yaml").write_bytes((repository / "params.yaml").read_bytes())
    installed("ctm-pipeline", "compile", cwd=tmp_path)
    installed("ctm-pipeline", "compile", "--check", cwd=tmp_path)
    written = {file.relative_to(tmp_path) for file in tmp_path.rglob("*.yaml")} - {Path("params.yaml")}
    assert {file.stem for file in written} >= set(STAGES)
    assert all((tmp_path / file).read_bytes() == (repository / file).read_bytes() for file in written)
    profiles = "from pipelines.profiles import load_profile; print(load_profile('gke'))"
    assert "gpu" in installed("python", "-c", profiles, cwd=tmp_path)


def test_the_version_stands_in_one_place(repository: Path, built: Path):
    with zipfile.ZipFile(*built.glob("*.whl")) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        assert f"\nVersion: {ctm.__version__}\n" in wheel.read(name).decode()
    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ctm.__version__
    assert f"\n## [{ctm.__version__}] - {citation['date-released']}\n" in (repository / "CHANGELOG.md").read_text()
