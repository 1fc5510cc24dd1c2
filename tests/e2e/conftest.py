"""A working tree of the project in a temporary git repository, with tiny data and tiny parameters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

import tests.conftest
from ctm.data.datasets.demo import write_demo
from ctm.stages import STAGES

PROJECT = Path(__file__).parents[2]
TRACKED = ("pyproject.toml", "dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore")
TINY = dict(override.split("=", 1) for override in tests.conftest.TINY)
"""Overrides of the demo preset with which a stage takes hardly longer than its imports."""


@dataclass(frozen=True)
class Checkout:
    """A working tree, and the commands that a person types in it."""

    root: Path

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Starts a command in the tree; the ``ctm`` that it finds is the tree's own."""
        found = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {
            "PATH": found,
            "PYTHONPATH": str(self.root),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin make tiny work slow where other processes run
            "DVC_NO_ANALYTICS": "true",
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc" / "site"),
        }
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.root, env=environment, stdout=pipe, stderr=pipe, text=True)

    def try_run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, whatever that is."""
        process = self.start(*command)
        out, err = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def run(self, *command: str) -> str:
        """Runs a command that must succeed; what it wrote to standard output and standard error."""
        done = self.try_run(*command)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def repro(self) -> list[str]:
        """Runs ``dvc repro``; the stages that it ran, told by their manifests, in the pipeline's order."""
        before = self._manifest_times()
        self.run("dvc", "repro")
        after = self._manifest_times()
        return [name for name in STAGES if after.get(name) != before.get(name)]

    def json(self, path: str) -> Any:
        """The contents of a JSON file."""
        return json.loads((self.root / path).read_text(encoding="utf-8"))

    def paths(self) -> set[str]:
        """Every file and folder below the tree, but for git's, DVC's and Python's own."""
        own = {".git", ".dvc", "__pycache__"}
        paths = (path.relative_to(self.root) for path in self.root.rglob("*"))
        return {path.as_posix() for path in paths if not own & set(path.parts)}

    def lock(self) -> dict[str, str]:
        """The hash in dvc.lock of every output."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}

    def copy(self, target: Path) -> Checkout:
        """A copy of the whole tree, with its artifacts, cache and history."""
        shutil.copytree(self.root, target, symlinks=True)
        return Checkout(target)

    def clone(self, target: Path) -> Checkout:
        """A clone of what git tracks: no data, no artifacts, no cache."""
        self.run("git", "clone", "--quiet", ".", str(target))
        return Checkout(target)

    def _manifest_times(self) -> dict[str, int]:
        return {
            path.name.removesuffix(".manifest.json"): path.stat().st_mtime_ns
            for path in (self.root / "metrics").glob("*.manifest.json")
        }


def make_checkout(root: Path, settings: Mapping[str, str] = TINY) -> Checkout:
    """The project's own files in a fresh git repository, with the demo preset and ``settings`` as params.yaml."""
    root.mkdir(parents=True)
    shutil.copytree(PROJECT / "ctm", root / "ctm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in TRACKED:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, root / name)
    tree = Checkout(root)
    tree.run("ctm", "init", "demo", "--force", *overrides(settings))
    tree.run("git", "init", "--quiet")
    tree.run("git", "add", ".")
    tree.run("git", "-c", "user.name=e2e", "-c", "user.email=e2e@localhost", "commit", "--quiet", "-m", "start")
    return tree


def overrides(settings: Mapping[str, str]) -> list[str]:
    """``--set`` options."""
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def write_photographs(root: Path, *, count: int) -> None:
    """Pictures of one to three noisy colour fields in the layout of format ``folder``, without masks and splits."""
    classes = {"grass": (70, 140, 50), "sky": (120, 170, 230), "sand": (210, 180, 120), "sea": (20, 60, 120)}
    (root / "images").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    rows = ["image,classes"]
    for number in range(count):
        rng = np.random.default_rng([7, number])
        chosen = rng.choice(list(classes), size=rng.integers(1, 3, endpoint=True), replace=False)
        height, width = rng.integers(36, 60, size=2)
        bands = np.sort(rng.integers(8, width - 8, size=len(chosen) - 1))
        fields = np.digitize(np.arange(width), bands)  # (W,)
        pixels = np.array([classes[name] for name in chosen])[fields][None].repeat(height, axis=0)
        pixels = np.clip(pixels + rng.normal(0, 20, size=pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"photo{number:03d}.jpg", quality=90)
        rows.append(f"photo{number:03d}.jpg,{';'.join(chosen)}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_noise(root: Path) -> None:
    """400 pictures that no compression makes smaller, 15 MB in all, so that a second's work makes 15 small shards."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["image,classes"]
    for number in range(400):
        pixels = rng.integers(0, 256, size=(90, 140, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"p{number:03d}.png")
        rows.append(f"p{number:03d},{'cow' if number % 3 else 'grass'}")
    (root / "labels.csv").write_text("\n".join(rows))
    (root / "classes.txt").write_text("grass\ncow\n")


NOISE = ("preprocess.shard_mb=1", "dataset.classes=null", "dataset.normalise=statistics")
"""Overrides of the preset photographs that read ``write_noise`` into small shards."""

PHOTOGRAPHS = TINY | {
    "dataset.format": "folder",
    "dataset.root": "data/photos",
    "dataset.classes": "null",
    "dataset.channels": "null",
}
"""Overrides of the demo preset that read ``write_photographs`` instead of the demo."""


def demo_tree(root: Path, settings: Mapping[str, str] = TINY) -> Checkout:
    """A checkout with tiny demo data in ``data/demo``."""
    tree = make_checkout(root, settings)
    write_demo(root / "data" / "demo", train=24, val=8, size=32)
    return tree


def photograph_tree(root: Path) -> Checkout:
    """A checkout with unmasked photographs in ``data/photos``."""
    tree = make_checkout(root, PHOTOGRAPHS)
    write_photographs(root / "data" / "photos", count=30)
    return tree
