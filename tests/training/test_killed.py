"""A training that is killed at random moments goes on from its last state, to the bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from typing import Any

import pytest

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CTM_KILLS", "2"))
"""How often each training is ended."""

EPOCHS = 8 * KILLS  # each takes away six at most

SETTINGS: dict[str, dict[str, Any]] = {
    "train_classifier": {"keep": "best", "pruning_weight": 0.01, "gate_lr": 0.1},
    "train_segmenter": {"keep": "best"},
}

RETURN_CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.parametrize("ended_by", RETURN_CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("stage", SETTINGS)
def test_a_training_ended_at_random_moments_gives_the_bytes_of_an_undisturbed_one(trainings_of, stage, ended_by):
    trainings = trainings_of(stage, epochs=EPOCHS, batch_size=4, **SETTINGS[stage])
    assert trainings.run("undisturbed")[0] == 0
    rng = random.Random(f"{stage} {ended_by}")
    workers = ("--workers", "1")
    logs = [end_at_random(trainings.start("ended", *workers), rng, ended_by) for _ in range(KILLS)]
    assert not trainings.folder("ended").exists()
    code, log = trainings.run("ended")
    assert code == 0, log
    assert all("resuming after epoch" in said for said in [*logs[1:], log])
    assert not any("  epoch 1/" in said for said in [*logs[1:], log]), "it started anew"
    for path in trainings.folder("undisturbed").iterdir():
        assert (trainings.folder("ended") / path.name).read_bytes() == path.read_bytes(), path.name
    assert not trainings.states("ended")
    assert not [path for path in (trainings.folder("ended").parents[1]).rglob("*") if "partial" in path.name]


def end_at_random(process: subprocess.Popen[str], rng: random.Random, number: signal.Signals) -> str:
    """Lets a training have some epochs more, ends it in the middle of whatever it does then, and gives its log."""
    epochs, lines = rng.randint(1, 6), []
    for line in process.stdout:
        lines.append(line)
        epochs -= "  epoch " in line
        if not epochs:
            break
    time.sleep(0.2 * rng.random())
    process.send_signal(number)
    asked = time.monotonic()
    lines.append(process.communicate()[0])
    assert time.monotonic() - asked < 30  # it takes about a second where nothing else runs
    assert process.returncode == RETURN_CODES[number], "".join(lines)
    return "".join(lines)
