"""A tiny pipeline for all tests: demo scenes of 32 pixels, a transformer of depth 2, stages that run on demand."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctm.data.shard_index import write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import ShardFolder
from ctm.execute import RunOptions, execute, manifest_path
from ctm.params import Params, load_preset, stage_config
from ctm.stage import Source
from ctm.stages import STAGES

pytest_plugins = ["tests.seaweed"]  # a real S3 server, started by the first test that asks for it

REPOSITORY = Path(__file__).parents[1]

TINY = (
    "model.image_size=32",
    "model.patch_size=8",
    "model.depth=2",
    "model.embed_dim=24",
    "model.num_heads=3",
    "train_classifier.epochs=2",
    "train_classifier.batch_size=8",
    "prune_heads.check_images=4",
    "extract_pseudomasks.batch_size=5",
    "train_segmenter.epochs=2",
    "train_segmenter.batch_size=8",
    "train_segmenter.options={encoder_depth: 3, decoder_channels: [8, 8, 8]}",
    "evaluate.compare=[random, spectral, attention]",
    "evaluate.panels=2",
)
"""What makes the preset demo a matter of seconds."""


class TinyPipeline:
    """The six stages on a few demo scenes; a stage runs, through ``execute``, when its artifact is first asked for."""

    def __init__(self, root: Path, raw: Path, params: Params) -> None:
        self.root, self.raw, self.params = root, raw, params

    def path(self, stage: str, port: str) -> Path:
        """The artifact that a stage writes at a port."""
        path = self.root / STAGES[stage].outputs[port].path
        if not path.exists():
            self.run(stage, self.root)
        return path

    def metrics(self, stage: str) -> Any:
        """What is in ``metrics/<stage>.json``."""
        self.path(stage, next(iter(STAGES[stage].outputs)))
        return json.loads((self.root / STAGES[stage].metrics).read_text())

    def manifest(self, stage: str) -> Any:
        """What is in ``metrics/<stage>.manifest.json``."""
        self.path(stage, next(iter(STAGES[stage].outputs)))
        return json.loads(manifest_path(self.root / STAGES[stage].metrics).read_text())

    def inputs(self, stage: str) -> dict[str, Path]:
        """The inputs of a stage, made by the stages before it."""
        return {
            name: self.raw if isinstance(source, Source) else self.path(source.stage, source.port)
            for name, source in STAGES[stage].inputs.items()
        }

    def run(self, stage: str, root: Path, *, params: Params | None = None, **inputs: Path) -> Any:
        """Runs a stage into another folder, with other parameters or inputs where they are given."""
        return execute(
            STAGES[stage],
            stage_config(params or self.params, STAGES[stage].config),
            inputs={**self.inputs(stage), **inputs},
            outputs={name: root / output.path for name, output in STAGES[stage].outputs.items()},
            options=RunOptions(metrics=root / STAGES[stage].metrics, checkpoints=root / "checkpoints", device="cpu"),
        )


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that the tests stand in."""
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_params() -> Params:
    """The preset demo, made tiny."""
    return load_preset("demo", TINY)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny work on a busy machine a hundred times slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def changed(tiny_params: Params) -> Callable[..., Params]:
    """The tiny parameters with other values: ``changed(seed=1, train_segmenter={"epochs": 1})``."""

    def made(**values: Any) -> Params:
        sections = {
            name: getattr(tiny_params, name).model_copy(update=value) if isinstance(value, dict) else value
            for name, value in values.items()
        }
        return tiny_params.model_copy(update=sections)

    return made


@pytest.fixture(scope="session")
def tiny_overrides() -> tuple[str, ...]:
    """What ``--set`` must say to make the preset demo tiny."""
    return TINY


@pytest.fixture(scope="session")
def demo_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 demo scenes to train on and 8 to validate on, 32 pixels a side, as GeoTIFFs."""
    pytest.importorskip("rasterio", reason="needs the extra 'geo'")
    from ctm.data.datasets.demo import write_demo

    root = tmp_path_factory.mktemp("demo") / "raw"
    write_demo(root, train=24, val=8, size=32)
    return root


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory, demo_raw: Path, tiny_params: Params) -> TinyPipeline:
    """The pipeline; what it made is shared by all tests and must not be changed by any."""
    return TinyPipeline(tmp_path_factory.mktemp("pipeline"), demo_raw, tiny_params)


@pytest.fixture(scope="session")
def tiny_shards(pipeline: TinyPipeline) -> ShardFolder:
    """The demo scenes as shards."""
    return ShardFolder.open(pipeline.path("preprocess", "shards"))


@pytest.fixture
def rewrite(tmp_path: Path) -> Callable[..., ShardFolder]:
    """Copies a shard folder with its members changed: ``rewrite(shards, {"mask.png": None})`` leaves the truth out.

    A function of split, index and members gives those of each sample, or None to leave the sample out.
    """

    def rewritten(shards: ShardFolder, change: Any, *, name: str = "rewritten") -> ShardFolder:
        entries = {}
        for split in map(shards.split, shards.splits):
            with ShardWriter(tmp_path / name, split.name, classes=shards.classes) as writer:
                for index, key in enumerate(split.keys):
                    old = {member: split.read(index, member) for member in split.members if split.has(index, member)}
                    changed = change(split, index, old) if callable(change) else old | change
                    if changed is None:
                        continue
                    new = {member: data for member, data in changed.items() if data is not None}
                    labels = [shards.classes.tokens[c] for c in split.labels[index].nonzero()[0]]
                    height, width = split.sizes[index].tolist()
                    writer.add(key, new, labels=labels, height=height, width=width)
            entries[split.name] = writer.entry
        write_index(tmp_path / name, shards.index.model_copy(update={"splits": entries}))
        return ShardFolder.open(tmp_path / name)

    return rewritten


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of so many bytes (``400k``)."""
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: str) -> Path:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"no disk can be mounted here: {made.stderr}")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", disk], check=True)
