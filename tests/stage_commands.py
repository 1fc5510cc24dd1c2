"""Stages as commands of their own, of one process or several, that tests start, disturb and compare."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from ctm.params import Params, to_yaml
from ctm.stages import STAGES

__all__ = ["WITHOUT_BATCH_NORM", "Commands"]

BIN = Path(sys.executable).parent

WITHOUT_BATCH_NORM = {
    "arch": "vit",
    "encoder": "vit_tiny_patch16_224",
    "options": {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, "decoder_channels": 16},
}
"""Settings of a segmenter that several processes can train on a CPU."""


class Commands:
    """Starts one stage, each time on a disk of its own or on one where it has been before."""

    def __init__(self, stage: str, params: Params, inputs: dict[str, Path], root: Path) -> None:
        self.stage, self._inputs, self._root = stage, inputs, root
        (root / "params.yaml").write_text(to_yaml(params), encoding="utf-8")

    def start(self, name: str, *options: str, processes: int = 1, node: str | None = None) -> subprocess.Popen[str]:
        """One that is under way.

        Args:
            name: of its disk.
            options: of the command.
            processes: more than one are started by torchrun.
            node: address and port of the first of two nodes, of which this is one; None: there is one alone.
        """
        disk = self._root / name
        disk.mkdir(exist_ok=True)
        meeting = ["--standalone", "--local-addr", "localhost"]
        if node is not None:
            meeting = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={node}", "--local-addr", "localhost"]
        torchrun = [BIN / "torchrun", *meeting, f"--nproc-per-node={processes}"]
        ports = [word for port, path in self._inputs.items() for word in (f"--{port}", path)]
        return subprocess.Popen(
            [
                *([*torchrun, "--no-python"] if processes > 1 or node else []),
                *(BIN / "ctm", self.stage.replace("_", "-"), *ports, *options),
                *("--params", self._root / "params.yaml", "--device", "cpu"),
            ],
            cwd=disk,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, name: str, *options: str, processes: int = 1) -> tuple[int, str]:
        """Exit code and log of one that is left to its end."""
        process = self.start(name, *options, processes=processes)
        log = process.communicate()[0]
        return process.returncode, log

    def folder(self, name: str) -> Path:
        """Where its output lies."""
        (output,) = STAGES[self.stage].outputs.values()
        return self._root / name / output.path

    def curve(self, name: str) -> list[dict[str, float]]:
        with (self.folder(name) / "history.csv").open() as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]

    def states(self, name: str) -> list[Path]:
        return list((self._root / name).rglob("*.ckpt"))
