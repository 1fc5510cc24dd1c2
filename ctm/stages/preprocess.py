"""Stage preprocess: raw data of any format become shards. The only reader of raw formats; needs no torch."""

from __future__ import annotations

from pathlib import Path

from ctm.data.config import DatasetConfig, PreprocessConfig
from ctm.data.datasets import open_dataset
from ctm.data.pack import write_dataset_shards
from ctm.runtime.context import Context
from ctm.stage import Config, Kind, Metrics, Output, Profile, Source, Stage

__all__ = ["STAGE"]


class PreprocessStageConfig(Config):
    """What preprocess reads of params.yaml."""

    dataset: DatasetConfig
    preprocess: PreprocessConfig


def run(config: PreprocessStageConfig, context: Context, *, raw: Path, shards: Path) -> Metrics:
    """Reads and checks every sample, writes shards, index and statistics; returns counts per split and class."""
    reader = open_dataset(config.dataset, raw)
    return write_dataset_shards(reader, shards, normalise=config.dataset.normalise, shard_mb=config.preprocess.shard_mb)


STAGE = Stage(
    name="preprocess",
    summary="Read and check the raw data; write shards, index and statistics.",
    config=PreprocessStageConfig,
    run=run,
    inputs={"raw": Source("dataset.root")},
    outputs={"shards": Output(Kind.DATASET, "artifacts/shards")},
    profile=Profile.CPU,
)
