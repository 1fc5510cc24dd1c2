"""Stage preprocess: raw data become shards, the same bytes each time."""

from __future__ import annotations

import shutil

import pytest

from ctm.errors import DataError
from ctm.runtime.digest import digest_artifact
from tests.stages.conftest import contents


def test_a_second_run_writes_the_same_bytes(pipeline, tmp_path):
    first, second = pipeline.path("preprocess", "shards"), tmp_path / "artifacts/shards"
    pipeline.run("preprocess", tmp_path)
    assert contents(first) == contents(second)
    assert pipeline.manifest("preprocess")["outputs"]["shards"]["sha256"] == digest_artifact(second)


def test_bad_data_write_nothing(pipeline, tmp_path):
    shutil.copytree(pipeline.raw, tmp_path / "raw")
    raster = next((tmp_path / "raw").rglob("*_s1_0_p3.tif"))
    raster.write_bytes(raster.read_bytes()[:200])
    with pytest.raises(DataError, match=raster.name):
        pipeline.run("preprocess", tmp_path / "out", raw=tmp_path / "raw")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
