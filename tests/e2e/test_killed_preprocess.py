"""Preprocess that is killed at random moments goes on to the very same bytes, and leaves no process behind."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctm.params import load_preset, to_yaml
from tests.e2e.conftest import NOISE, write_noise

pytestmark = pytest.mark.slow

KILLS = 10


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills") / "photos"
    write_noise(root)
    return root


def start(root: Path, photographs: Path) -> subprocess.Popen[str]:
    """Starts preprocess with two workers in a process group of its own."""
    root.mkdir(exist_ok=True)
    (root / "params.yaml").write_text(to_yaml(load_preset("photographs", NOISE)), encoding="utf-8")
    command = [Path(sys.executable).with_name("ctm"), "preprocess", "--raw", str(photographs), "--workers", "2"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=root, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> str:
    _, log = process.communicate()
    assert process.returncode == 0, log
    return log


def digest(root: Path) -> dict[str, str]:
    files = [*(root / "artifacts" / "shards").iterdir(), root / "report" / "data.png", root / "metrics/preprocess.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_gone(group: int) -> bool:
    """Whether every process of a group has ended, within five seconds."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_killed_at_ten_random_moments_it_ends_in_the_bytes_of_an_undisturbed_run(
    photographs: Path, tmp_path: Path
) -> None:
    whole = start(tmp_path / "whole", photographs)
    began = time.perf_counter()
    finish(whole)
    duration = time.perf_counter() - began
    expected = digest(tmp_path / "whole")
    assert len([name for name in expected if name.endswith(".tar")]) >= 12
    moments = random.Random(20).choices(range(5, 100), k=KILLS)
    resumed = 0
    for percent in moments:
        root = tmp_path / f"killed{percent}"
        process = start(root, photographs)
        time.sleep(duration * percent / 100)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert is_gone(process.pid), f"killed after {percent} %: a worker lives on"
        log = finish(start(root, photographs))
        resumed += "resuming after" in log
        assert digest(root) == expected, f"killed after {percent} % of {duration:.1f} s"
        assert not list((root / ".ctm" / "checkpoints").rglob("*.tar"))
    assert resumed, f"only {resumed} of the kills found finished shards"


@pytest.mark.parametrize("seconds", [0, 0.1, 0.3])
def test_ctrl_c_while_the_workers_start_is_one_line(photographs: Path, tmp_path: Path, seconds: float) -> None:
    process = start(tmp_path / "ended", photographs)
    while not has_server(process.pid):
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, log = process.communicate()
    assert process.returncode == 130, log
    assert log.splitlines()[1:] == ["ended by Ctrl-C; the same command goes on where it was"]
    assert is_gone(process.pid)


def has_server(pid: int) -> bool:
    """Whether a process has started the one that forks its workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)
