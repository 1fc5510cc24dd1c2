"""A training that is killed goes on from its last checkpoint and ends with the very same bytes."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EPOCHS = 25
TRAINING = ("--shards", "artifacts/shards", "--set", f"train_classifier.epochs={EPOCHS}")
WEIGHTS = Path("artifacts") / "classifier" / "model.safetensors"


def test_a_killed_training_resumes_to_the_bytes_of_an_undisturbed_one(demo_tree, tmp_path):
    tree = demo_tree(tmp_path / "undisturbed")
    tree.run("ctm", "preprocess", "--raw", "data/demo")
    other = tree.copy(tmp_path / "killed")
    tree.run("ctm", "train-classifier", *TRAINING)

    process = other.start("ctm", "train-classifier", *TRAINING)
    checkpoints = other.root / ".ctm" / "checkpoints"
    while process.poll() is None and not list(checkpoints.rglob("last.ckpt")):
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the training had ended before it was killed"
    assert not (other.root / "artifacts" / "classifier").exists()
    assert not (other.root / "metrics" / "train_classifier.json").exists()

    log = other.run("ctm", "train-classifier", *TRAINING)
    assert "resuming after epoch" in log
    assert f"  epoch {EPOCHS}/{EPOCHS}" in log
    assert "  epoch 1/" not in log, "it started anew"
    for path in (WEIGHTS, WEIGHTS.with_name("model.json"), WEIGHTS.with_name("history.csv")):
        assert (other.root / path).read_bytes() == (tree.root / path).read_bytes()
    assert not list(checkpoints.rglob("*.ckpt"))
    assert not [path for path in other.paths() if ".partial" in path]
