"""Commands of several processes under torchrun: the curve of one process, and an end in order when one is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ctm.runtime.context import Launch
from tests.stage_commands import WITHOUT_BATCH_NORM, Commands

pytestmark = pytest.mark.slow

STEPS = 50
"""Of the curves that are compared: as many epochs, each of one batch."""

CURVES = {
    "train_classifier": {"pruning_weight": 0.01, "gate_lr": 0.1},
    "train_segmenter": WITHOUT_BATCH_NORM,
}
"""Settings of the two trainings; the masks of the second leave some pixels undecided."""


def curve_of_two(trainings: Commands) -> tuple[list[dict[str, float]], str]:
    """Curve and log of two processes, which must have the curve of one."""
    for name, processes in (("one", 1), ("two", 2)):
        code, log = trainings.run(name, processes=processes)
        assert code == 0, log
        assert ("2 processes" in log) == (processes == 2)
    one, two = trainings.curve("one"), trainings.curve("two")
    for expected, row in zip(one, two, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    return two, log


@pytest.mark.parametrize("stage", CURVES)
def test_two_processes_have_the_curve_of_one(trainings_of, stage):
    trainings = trainings_of(stage, precision="fp64", epochs=STEPS, batch_size=24, **CURVES[stage])
    curve, log = curve_of_two(trainings)
    assert log.count(f"  epoch {STEPS}/{STEPS}") == 1, "one process speaks for all"
    assert len(curve) == STEPS
    assert curve[-1]["train_loss"] < 0.9 * curve[0]["train_loss"]
    weights, others = (load_file(trainings.folder(name) / "model.safetensors") for name in ("one", "two"))
    for name, tensor in weights.items():
        assert float((tensor - others[name]).abs().max()) <= 1e-6, name


def test_two_processes_train_themselves_on_the_masks_of_the_first(trainings_of):
    settings = {"epochs": 3, "batch_size": 8, "self_training": 1, "keep": "best", "accumulate": 2, "loss": "sce"}
    trainings = trainings_of("train_segmenter", precision="fp64", **settings, **WITHOUT_BATCH_NORM)
    assert [row["round"] for row in curve_of_two(trainings)[0]] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("stage", ["train_classifier", "extract_pseudomasks"])
def test_two_nodes_that_share_a_disk_give_what_one_gives(trainings_of, stage):
    """Two torchruns on this machine, which take each other for another one."""
    runs = trainings_of(stage, batch_size=8)
    assert runs.run("one")[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"localhost:{free.getsockname()[1]}"
    nodes = [runs.start("two", node=meeting) for _ in range(2)]
    logs = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], logs
    names = sorted(path.name for path in runs.folder("one").iterdir())
    assert sorted(path.name for path in runs.folder("two").iterdir()) == names
    if stage == "extract_pseudomasks":
        for name in names:
            assert (runs.folder("two") / name).read_bytes() == (runs.folder("one") / name).read_bytes()


def test_a_lost_process_ends_the_others_with_an_error_and_without_output(trainings_of):
    trainings = trainings_of("train_classifier", epochs=5000, batch_size=24)
    process = trainings.start("run", processes=2)
    second = wait_for_process(process, trainings, rank=1)
    os.kill(second, signal.SIGKILL)
    killed = time.monotonic()
    log = process.communicate(timeout=60)[0]
    assert time.monotonic() - killed < 60
    assert process.returncode != 0
    assert "error: process 0 of 2 has lost another process of this run" in log
    assert not trainings.folder("run").exists()
    assert not list((trainings.folder("run").parents[1] / "metrics").iterdir())


def test_a_process_that_is_lost_where_nobody_watches_is_noticed_by_the_others(trainings_of):
    trainings = trainings_of("train_classifier", epochs=5000, batch_size=24)
    process = trainings.start("run", "--metrics", "m.json", processes=2)
    second = wait_for_process(process, trainings, rank=1)
    os.kill(process.pid, signal.SIGSTOP)  # torchrun is as good as on another machine
    first = next(pid for pid in children(process.pid) if pid != second)
    try:
        os.kill(second, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and state_of(first) not in ("Z", None):
            time.sleep(0.1)
        assert state_of(first) in ("Z", None), "it hangs"
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert "has lost another process of this run" in process.communicate(timeout=60)[0]


def test_sigterm_ends_all_processes_at_the_same_step_and_the_run_goes_on_to_the_same_bytes(trainings_of):
    trainings = trainings_of("train_classifier", batch_size=4, epochs=60, keep="best", accumulate=2)
    assert trainings.run("undisturbed", processes=2)[0] == 0
    process = trainings.start("ended", "--workers", "1", processes=2)
    wait_for_process(process, trainings, name="ended", rank=1)
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert log.count("ended by SIGTERM; the same command goes on where it was\n") == 2
    assert "has lost another process" not in log
    assert "Traceback" not in log.partition("ended by SIGTERM")[0]
    epochs = log.count("  epoch ")
    newest = max(path.name for path in trainings.states("ended"))
    assert newest.startswith(f"round0-{epochs:06d}-"), "the state is not that of the end"
    code, log = trainings.run("ended", processes=2)
    assert code == 0, log
    assert f"resuming after epoch {epochs}" in log
    for file in ("model.safetensors", "history.csv"):
        written, expected = (trainings.folder(name) / file for name in ("ended", "undisturbed"))
        assert written.read_bytes() == expected.read_bytes()


def test_a_run_of_two_processes_goes_on_in_one(trainings_of):
    trainings = trainings_of("train_classifier", epochs=5000, batch_size=24)
    process = trainings.start("run", processes=2)
    wait_for_process(process, trainings, rank=1)
    process.terminate()
    process.communicate(timeout=60)
    alone = trainings.start("run")
    lines = []
    for line in alone.stdout:
        lines.append(line)
        if "  epoch " in line:
            break
    alone.kill()
    assert "resuming after epoch" in "".join(lines)
    assert "  epoch 1/" not in lines[-1], "it started anew"
    alone.communicate()


def test_a_batch_that_cannot_be_shared_out_is_refused(trainings_of):
    code, log = trainings_of("train_classifier", batch_size=7).run("run", processes=2)
    assert code == 1
    assert "batch_size 7 is that of all processes together, and cannot be shared out among 2" in log


def test_batch_normalisation_is_refused_where_it_cannot_be_shared(trainings_of):
    code, log = trainings_of("train_segmenter").run("run", processes=2)
    assert code == 1
    assert "has batch normalisation, whose statistics several processes share on GPUs only" in log


def test_stages_of_one_process_refuse_several(pipeline, tiny_params, tmp_path):
    code, log = Commands("prune_heads", tiny_params, pipeline.inputs("prune_heads"), tmp_path).run("run", processes=2)
    assert code == 1
    assert "prune-heads runs as one process, and torchrun has started 2" in log


def test_one_process_is_the_first_and_only(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Launch.from_environment() == Launch(rank=0, world=1, local_rank=0, local_world=1)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert Launch.from_environment() == Launch(rank=5, world=8, local_rank=1, local_world=4)


def wait_for_process(process: subprocess.Popen[str], trainings: Commands, *, rank: int, name: str = "run") -> int:
    """The id of the process with that rank, once the training has saved a state."""
    while not trainings.states(name):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    return next(pid for pid in children(process.pid) if environment_of(pid).get("RANK") == str(rank))


def children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(entry.decode().split("=", 1) for entry in entries if b"=" in entry)


def state_of(pid: int) -> str | None:
    """The letter that Linux has for a process's state, Z for one that has ended; None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
