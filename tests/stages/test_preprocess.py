"""Stage preprocess: raw data become shards, the same bytes each time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctm.data.shards import ShardFolder
from ctm.errors import DataError
from ctm.runtime.digest import digest_artifact


def test_every_scene_comes_with_labels_and_truth(pipeline: Any, tiny_shards: ShardFolder):
    assert (tiny_shards.channels, tiny_shards.scale, len(tiny_shards.classes.names)) == (15, 1e-4, 8)
    for name, count in (("train", 24), ("val", 8)):
        split = tiny_shards.split(name)
        assert len(split) == count
        assert all(split.image(index).shape == (15, 32, 32) for index in range(count))
        for index in range(count):
            shares = np.bincount(split.mask(index, "mask.png").ravel(), minlength=8) / 1024
            assert np.array_equal(split.labels[index], shares >= 0.1)


def test_the_metrics_count_samples_labels_and_truth(pipeline: Any, tiny_shards: ShardFolder):
    metrics = pipeline.metrics("preprocess")
    assert (metrics["train"]["samples"], metrics["val"]["with_truth"]) == (24, 8)
    assert metrics["train"]["classes"] == tiny_shards.index.splits["train"].labels


def test_a_second_run_writes_the_same_bytes(pipeline: Any, tmp_path: Path):
    pipeline.run("preprocess", tmp_path)
    first, second = (root / "artifacts/shards" for root in (pipeline.root, tmp_path))
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}
    assert pipeline.manifest("preprocess")["outputs"]["shards"]["sha256"] == digest_artifact(second)


def test_bad_data_write_nothing(pipeline: Any, tmp_path: Path):
    shutil.copytree(pipeline.raw, tmp_path / "raw")
    raster = next((tmp_path / "raw").rglob("*_s1_0_p3.tif"))
    raster.write_bytes(raster.read_bytes()[:200])
    with pytest.raises(DataError, match=raster.name):
        pipeline.run("preprocess", tmp_path / "out", raw=tmp_path / "raw")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
