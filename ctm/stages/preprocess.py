"""Stage preprocess: raw data of any format become shards. The only reader of raw formats; needs no torch."""

from __future__ import annotations

import logging
from pathlib import Path

from ctm.data.config import DatasetConfig, PreprocessConfig
from ctm.data.contact_sheet import write_contact_sheet
from ctm.data.datasets import open_dataset
from ctm.data.findings import all_problems, findings_lines, split_metrics
from ctm.data.pack import Packing, write_dataset_shards
from ctm.data.shards import ShardFolder
from ctm.runtime.context import Context
from ctm.runtime.storage import Tree
from ctm.stage import Config, Kind, Metrics, Output, Profile, Source, Stage

__all__ = ["STAGE"]

logger = logging.getLogger(__name__)


class PreprocessStageConfig(Config):
    """What preprocess reads of params.yaml."""

    dataset: DatasetConfig
    preprocess: PreprocessConfig


def run(config: PreprocessStageConfig, context: Context, *, raw: Tree, shards: Path, contact_sheet: Path) -> Metrics:
    """Reads and checks every sample, writes shards, index, statistics and a contact sheet; returns counts."""
    if store := context.checkpoint_store:
        logger.info("finished shards are kept in %s until all are done, not in %s", context.checkpoints, store.uri)
    dataset = open_dataset(config.dataset, raw)
    packing = Packing(
        normalise=config.dataset.normalise,
        settings=config.preprocess,
        workers=context.workers or 0,
        progress=context.checkpoints,
        resume=context.resume,
    )
    found = write_dataset_shards(dataset, raw, shards, packing)
    written = ShardFolder.open(shards)
    write_contact_sheet(written, contact_sheet)
    logger.info("%s in %s", config.dataset.format, raw.uri)
    for line in findings_lines(dataset, found):
        logger.info("%s", line)
    problems = all_problems(dataset, found)
    context.skipped.extend({"path": problem.path, "reason": problem.message} for problem in problems)
    metrics: Metrics = {name: split_metrics(split, dataset.classes.token_names) for name, split in found.items()}
    for name in found:
        metrics[name]["shards"] = len(written.index.splits[name].shards)
    return {**metrics, "skipped": len(problems), "left_out": dict(dataset.left_out)}


STAGE = Stage(
    name="preprocess",
    summary="Read and check the raw data; write shards, index, statistics and a contact sheet.",
    config=PreprocessStageConfig,
    run=run,
    inputs={"raw": Source("dataset.root")},
    outputs={
        "shards": Output(Kind.DATASET, "artifacts/shards"),
        "contact_sheet": Output(Kind.REPORT, "report/data.png"),
    },
    profile=Profile.CPU,
    resumable=True,
)
