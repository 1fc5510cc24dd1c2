"""The command `ctm-pipeline`: generated files, checks, new data, help, and one message for each mistake."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import ctm
from ctm.runtime.storage import listing_digest, open_tree
from ctm.stages import STAGES
from pipelines.cli import app
from tests.pipelines.conftest import IMAGE, Call, Tree
from tests.pipelines.kubeflow_server import KubeflowServer
from tests.seaweed import SeaweedServer

COMMANDS = {"check", "compile", "new-data", "record", "run-local", "schedule", "submit", "sweep", "trainjob"}


PROGRAM = Path(sys.executable).with_name("ctm-pipeline")


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the installed `ctm-pipeline` itself."""
    return subprocess.run([PROGRAM, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_version_is_that_of_ctm(succeed: Call):
    assert succeed("--version") == f"ctm-pipeline {ctm.__version__}\n"


def test_the_help_lists_every_command_and_exit_code(succeed: Call):
    out = succeed("--help")
    assert "Exit codes: 0 done; 1 an error" in out
    assert set(re.findall(r"^│ ([a-z-]+)  ", out, re.MULTILINE)) >= COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_has_its_help(name: str):
    waiting = [get_command(app).commands[name]]  # type: ignore[attr-defined]
    while waiting:
        found = waiting.pop()
        assert found.help
        assert all(getattr(parameter, "help", None) for parameter in found.params), found.name
        waiting += getattr(found, "commands", {}).values()


@pytest.fixture(scope="session")
def generated(template: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml in which `compile` has run once."""
    folder = tmp_path_factory.mktemp("generated")
    shutil.copy(template.root / "params.yaml", folder)
    done = command("compile", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "wrote pipelines/ctm.yaml\n" in done.stdout
    return folder


@pytest.fixture
def compiled(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the current folder."""
    folder = shutil.copytree(generated, tmp_path / "compiled")
    monkeypatch.chdir(folder)
    return folder


def test_compile_writes_the_files_and_check_tells_which_differ(compiled: Path, succeed: Call, fail: Call):
    assert {path.stem for path in (compiled / "components").glob("*.yaml")} >= set(STAGES)
    changed, missing = compiled / "components" / "evaluate.yaml", compiled / "pipelines" / "ctm_sweep.yaml"
    changed.write_text(changed.read_text() + "# mine\n")
    missing.unlink()
    message = fail("compile", "--check")
    assert message.startswith("not what the stages say: pipelines/ctm_sweep.yaml, components/evaluate.yaml. ")
    assert "make pipeline" in message
    assert not missing.exists()
    assert succeed("compile").splitlines()[:-1] == ["wrote pipelines/ctm_sweep.yaml", "wrote components/evaluate.yaml"]
    assert "wrote" not in succeed("compile", "--check")


def test_check_lists_every_fault(compiled: Path, succeed: Call, fail: Call):
    assert "is in order" in succeed("check", "pipelines/ctm.yaml")
    text = (compiled / "pipelines" / "ctm.yaml").read_text()
    bad = text.replace("effect: NoSchedule", "effect: Never").replace("name: comp-evaluate", "name: comp-nobody")
    (compiled / "bad.yaml").write_text(bad)
    message = fail("check", "bad.yaml")
    assert message.startswith("bad.yaml is not in order:\n")
    assert "'Never'" in message
    assert "'comp-nobody'" in message


def test_an_image_by_tag_is_a_fault_unless_tags_are_allowed(compiled: Path, succeed: Call, fail: Call):
    assert "by tag" in fail("check", "components/evaluate.yaml")
    succeed("check", "components/evaluate.yaml", "--allow-tags")


def record(tree: Tree, name: str = "evaluate", **manifest: object) -> Path:
    """A manifest in models, as `record` leaves it."""
    file = tree.root / "models" / f"{name}.manifest.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(manifest))
    return file


def test_where_nothing_is_recorded_the_data_are_new(tree: Tree, succeed: Call):
    assert succeed("new-data", "--params", "params.yaml") == "changed=true\n"
    record(tree, labels={"run": "r1", "raw_data": ""})
    assert succeed("new-data") == "changed=true\n"


def test_data_under_dvc_are_compared_with_the_hash_they_were_submitted_with(tree: Tree, succeed: Call):
    known = yaml.safe_load((tree.root / "data/demo.dvc").read_text())["outs"][0]["md5"]
    record(tree, labels={"raw_data": known})
    assert succeed("new-data") == "changed=false\n"
    shutil.rmtree(tree.root / "data" / "demo")
    assert succeed("new-data") == "changed=false\n", "the data need not be here"
    file = tree.root / "data" / "demo.dvc"
    file.write_text(file.read_text().replace(known, f"{'0' * 32}.dir"))
    assert succeed("new-data") == "changed=true\n"


def test_data_are_compared_with_the_listing_of_the_run_that_read_them(tree: Tree, succeed: Call):
    listing = listing_digest(open_tree("data/demo"))
    record(tree, "preprocess", inputs={"raw": {"path": "s3://elsewhere", "sha256": listing}})
    assert succeed("new-data") == "changed=false\n"
    (tree.root / "data" / "demo" / "more.tif").write_bytes(b"x")
    assert succeed("new-data") == "changed=true\n"


def test_data_in_s3_are_new_where_a_file_of_the_same_size_is_another(
    tree: Tree, succeed: Call, s3_server: SeaweedServer
):
    uri = s3_server.put("new-data/raw", {"a.tif": b"abc"})
    mine = tree.root / "mine.json"
    found = {"raw": {"sha256": listing_digest(open_tree(uri))}}  # names and sizes, which stay the same
    labels = {"raw_data": listing_digest(open_tree(uri), stamps=True)}
    mine.write_text(json.dumps({"labels": labels, "inputs": found}))
    arguments = ("new-data", "--set", f"dataset.root={uri}", "--recorded", mine)
    assert succeed(*arguments) == "changed=false\n"
    assert succeed("new-data", "--raw", uri, "--recorded", mine) == "changed=false\n"
    s3_server.put("new-data/raw", {"a.tif": b"xyz"})
    assert succeed(*arguments) == "changed=true\n"


def test_data_of_which_nothing_is_known_and_damaged_manifests_are_errors(tree: Tree, fail: Call):
    file = record(tree, labels={"raw_data": "abc"})
    assert "nothing is known of the data in nowhere" in fail("new-data", "--set", "dataset.root=nowhere")
    file.write_text("[")
    assert "is no manifest" in fail("new-data")


def test_a_local_run_that_cannot_start_says_why_and_leaves_the_one_before(
    tree: Tree, fail: Call, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tree.root}/no.sock")
    output = tree.root.parent / "output"
    output.mkdir()
    (output / "local_run.txt").write_text("an earlier run")
    for options in ((), ("--image", f"gpu={IMAGE}", "--pipeline", "ctm_fanout")):
        assert "no Docker engine answers" in fail("run-local", "--output", output, *options)
    assert "'test' is no stage" in fail("run-local", "--output", output, "--image", "test=x")
    assert [path.name for path in output.iterdir()] == ["local_run.txt"]
    assert [path.name for path in output.parent.iterdir() if path.name.startswith(".output")] == []


def test_a_wrong_sweep_is_refused(tree: Tree, fail: Call):
    assert "expected section.name=value,value" in fail("sweep", "train_classifier.pruning_weight")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("submit", "--image", IMAGE, "--raw", "/mnt/demo"), "error: the git tree has uncommitted changes"),
        (("schedule", "list"), "error: http://127.0.0.1:9 cannot be reached: .*Connection refused. Check --host.\n$"),
    ],
)
def test_an_error_is_one_message_and_exit_code_1(tree: Tree, arguments: tuple[str, ...], message: str):
    (tree.root / "new.py").touch()
    done = command(*arguments, "--host", "http://127.0.0.1:9", cwd=tree.root)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.match(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_at_ctrl_c_a_command_ends_as_a_shell_expects_it(tree: Tree, server: KubeflowServer):
    server.silent = "/apis/v2beta1/healthz"
    arguments = [PROGRAM, "schedule", "list", "--host", server.host]
    running = subprocess.Popen(arguments, cwd=tree.root, stderr=subprocess.PIPE, text=True)
    while not server.requests and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=60) == (None, "ended by Ctrl-C\n")
    assert running.returncode == 130


def test_new_data_needs_nothing_of_kubeflow(tree: Tree):
    hidden = "import sys; sys.modules['kfp'] = sys.modules['kfp_server_api'] = None;"
    code = f"{hidden} sys.argv = ['ctm-pipeline', 'new-data']; from pipelines.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree.root, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("changed=true\n", "")
    missing = code.replace("'new-data'", "'compile'")
    done = subprocess.run([sys.executable, "-c", missing], cwd=tree.root, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: this command needs kfp, which is not installed: pip install 'ctm[")
