"""A disk that fills up during a write: one clear error, and nothing half-written that is accepted later."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ctm.params import to_yaml
from ctm.stages import STAGES
from tests.conftest import TinyPipeline

pytestmark = pytest.mark.slow

CTM = Path(sys.executable).with_name("ctm")


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "evaluate"])
def test_a_stage_whose_output_does_not_fit_says_so_and_leaves_nothing(
    pipeline: TinyPipeline, small_disk, tmp_path: Path, stage: str
):
    disk = small_disk("16k")
    code, log = run(pipeline, tmp_path, stage, output=disk, checkpoints=tmp_path / "checkpoints")
    assert code == 1, log
    assert "error: " in log
    assert "No space left on device" in log
    assert "ake room and run" in log
    assert "Traceback" not in log
    assert list(disk.rglob("*")) == []
    assert not (tmp_path / "metrics").exists() or not list((tmp_path / "metrics").iterdir())


@pytest.mark.parametrize("stage", ["train_classifier", "train_segmenter"])
def test_a_checkpoint_that_does_not_fit_says_so_and_is_not_taken_for_one(
    pipeline: TinyPipeline, small_disk, tmp_path: Path, stage: str
):
    disk = small_disk("16k")
    code, log = run(pipeline, tmp_path, stage, output=tmp_path, checkpoints=disk)
    assert code == 1, log
    assert "error: a checkpoint cannot be written to " in log
    assert "(No space left on device)" in log
    assert "make room and run the command again, or name another place with --checkpoints" in log
    assert not [path for path in disk.rglob("*") if path.is_file()]
    code, log = run(pipeline, tmp_path, stage, output=tmp_path, checkpoints=tmp_path / "checkpoints")
    assert code == 0, log
    assert "resuming" not in log


@pytest.mark.parametrize("room", ["16k", "24k", "32k"])
def test_masks_that_do_not_fit_say_so_and_none_is_half_there(
    pipeline: TinyPipeline, small_disk: Callable[[str], Path], room: str
):
    disk = small_disk(room)
    words = [pipeline.path("preprocess", "shards"), disk / "masks", "--format", "geotiff"]
    ended = subprocess.run([CTM, "unpack", *words], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "make room and run the command again" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(disk.rglob("*")) == []


def run(pipeline: TinyPipeline, root: Path, stage: str, *, output: Path, checkpoints: Path) -> tuple[int, str]:
    (root / "params.yaml").write_text(to_yaml(pipeline.params), encoding="utf-8")
    ports = {**pipeline.inputs(stage), **{name: output / name for name in STAGES[stage].outputs}}
    words = [word for name, path in ports.items() for word in (f"--{name.replace('_', '-')}", path)]
    places = ["--checkpoints", checkpoints, "--metrics", root / "metrics" / "m.json", "--params", root / "params.yaml"]
    command = [CTM, STAGES[stage].command, *words, *places, "--device", "cpu"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root)
    return ended.returncode, ended.stderr
