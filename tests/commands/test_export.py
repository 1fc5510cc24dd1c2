"""``ctm export`` through the real command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TinyPipeline
from tests.test_cli import command, fail, place

__all__ = ["place"]  # every test has an empty working folder


def test_a_trained_segmenter_becomes_a_checked_file_without_noise(pipeline: TinyPipeline, tmp_path: Path):
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    model = pipeline.path("train_segmenter", "segmenter")
    done = command("export", "--model", model, "--out", "segmenter.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote segmenter.onnx; its logits differ from torch's by ")
    assert done.stdout.endswith("(allowed: 0.0001)\n")
    assert done.stderr == ""
    assert (tmp_path / "segmenter.onnx").stat().st_size > 10_000


def test_a_classifier_is_no_segmenter(pipeline: TinyPipeline):
    model = pipeline.path("prune_heads", "pruned")
    message = fail("export", "--model", model, "--out", "x.onnx")
    assert message.endswith("Name the folder of a segmenter: train-segmenter writes one.")
    assert not Path("x.onnx").exists()


def test_without_the_extra_its_name_is_told(pipeline: TinyPipeline, tmp_path: Path):
    model = pipeline.path("train_segmenter", "segmenter")
    code = "import sys; sys.modules['onnxruntime'] = None; from ctm.cli import main; main()"
    words = [sys.executable, "-c", code, "export", "--model", str(model), "--out", "x.onnx"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: this command needs onnxruntime, which is not installed: pip install 'ctm[onnx]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
