"""From a raw data set to shards: every sample read, checked and written once, with counts and channel statistics."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctm.data.config import PreprocessConfig
from ctm.data.datasets.reader import Problem, RawDataset
from ctm.data.decoding import Decoded, decode_entries
from ctm.data.findings import SplitFindings
from ctm.data.journal import Journal, SplitJournal
from ctm.data.shard_index import ShardIndex, SplitIndex, write_index
from ctm.data.shard_writer import Finished, ShardWriter
from ctm.data.statistics import ChannelStatistics
from ctm.errors import ArtifactError, DataError, ParamsError
from ctm.runtime.outputs import remove
from ctm.runtime.progress import track
from ctm.runtime.storage import Tree, listing_digest

__all__ = ["Packing", "write_dataset_shards"]

logger = logging.getLogger(__name__)

Normalise = Literal["none", "imagenet", "statistics"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SKIP_HINT = "; `ctm check-data` lists every such file, and preprocess.on_error: skip leaves them out"


@dataclass(frozen=True)
class Packing:
    """How shards are written, and where a broken-off run finds what it had finished.

    Attributes:
        normalise: none, ImageNet's RGB mean and deviation, or those of the scaled pixels of the train split.
        settings: section ``preprocess`` of the parameters.
        workers: processes that read and decode; with 0 or 1 this one does.
        progress: folder outside the output for shards in the making; moved to the output when all are written.
        resume: go on behind the last shard that an interrupted run had finished there.
    """

    normalise: Normalise
    settings: PreprocessConfig
    workers: int
    progress: Path
    resume: bool


def write_dataset_shards(dataset: RawDataset, tree: Tree, folder: Path, packing: Packing) -> dict[str, SplitFindings]:
    """Writes all splits of a raw data set as shards; the same bytes for any number of workers, interrupted or not.

    Args:
        dataset: the raw data set.
        tree: where its files lie.
        folder: where the shards go; it must not exist.
        packing: how.

    Returns:
        What was found in each split.

    Raises:
        DataError: a file cannot be used, and ``on_error`` is ``fail``; ``folder`` does not exist then.
        ParamsError: ImageNet's three channels are asked of images with another number.
        StorageError: the files cannot be reached any more; finished shards are kept.
    """
    if packing.normalise == "imagenet" and dataset.channels != len(IMAGENET_MEAN):
        raise ParamsError(
            f"dataset.normalise 'imagenet' needs 3 channels, the images have {dataset.channels}; use 'statistics'"
        )
    if packing.settings.on_error == "fail" and dataset.problems:
        raise DataError(dataset.problems[0].message + SKIP_HINT)
    job = _Job(dataset, tree, packing)
    try:
        entries = job.run()
    except ArtifactError as error:
        logger.warning("%s: beginning anew", error)
        job = _Job(dataset, tree, packing, fresh=True)
        entries = job.run()
    except BaseException as error:
        if isinstance(error, DataError) or not job.has_finished_shards:
            remove(packing.progress)  # the same data would fail again, and other data make other shards
        raise
    mean, std = {
        "none": (None, None),
        "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
        "statistics": (job.statistics.mean, job.statistics.std),
    }[packing.normalise]
    index = ShardIndex(
        kind="images",
        classes=dataset.classes.names,
        background=dataset.classes.background,
        channels=dataset.channels,
        values=dataset.values,
        scale=dataset.scale,
        normalise=packing.normalise,
        mean=mean,
        std=std,
        splits=entries,
        tune=tuple(sorted(dataset.tune)),
    )
    _move(job.folder, folder)
    write_index(folder, index)
    return {name: split.findings for name, split in job.journal.splits.items()}


class _Job:
    """The writing of one data set, whose journal is saved whenever a shard is closed."""

    def __init__(self, dataset: RawDataset, tree: Tree, packing: Packing, *, fresh: bool = False) -> None:
        self._dataset, self._tree, self._packing = dataset, tree, packing
        self.folder = packing.progress / "shards"
        self._path = packing.progress / "journal.json"
        stamp = listing_digest(tree, stamps=True)
        found = Journal.load(self._path, stamp=stamp) if packing.resume and not fresh else None
        if found is None:
            remove(packing.progress)
        self.journal = found or Journal.begin(stamp, dataset.channels)
        self.statistics = ChannelStatistics(self.journal.statistics)

    @property
    def has_finished_shards(self) -> bool:
        """Whether there is anything to go on from."""
        return any(split.finished.shards for split in self.journal.splits.values())

    def run(self) -> dict[str, SplitIndex]:
        """Writes what is not written yet; the entries of the index."""
        done = sum(split.findings.samples for split in self.journal.splits.values())
        if done:
            logger.info("  resuming after %s samples in finished shards", f"{done:,}")
        return {name: self._write(name) for name in self._dataset.splits}

    def _write(self, name: str) -> SplitIndex:
        split = self.journal.splits.setdefault(name, SplitJournal())
        # The journal keeps the state of the last closed shard; what is being counted is a copy.
        findings = split.findings.copy()
        with ShardWriter(
            self.folder,
            name,
            classes=self._dataset.classes,
            shard_mb=self._packing.settings.shard_mb,
            finished=split.finished,
        ) as writer:
            for outcome in self._decoded(name, start=findings.taken):
                if isinstance(outcome, Problem):
                    self._reject(outcome, findings)
                elif self._add(outcome, findings, writer):
                    self._save(name, findings, writer.finished)
        if not findings.samples:
            raise DataError(f"{self._tree.uri}: no image of split {name!r} can be used; `ctm check-data` says why")
        self._save(name, findings, writer.finished)
        return writer.entry

    def _decoded(self, name: str, *, start: int) -> Iterator[Decoded | Problem]:
        entries = self._dataset.splits[name]
        found = decode_entries(
            self._dataset,
            self._tree,
            entries[start:],
            workers=self._packing.workers,
            moments=self._packing.normalise == "statistics" and name == "train",
        )
        return track(found, description=f"shards of {name}", total=len(entries), start=start)

    def _reject(self, problem: Problem, findings: SplitFindings) -> None:
        if self._packing.settings.on_error == "fail":
            raise DataError(problem.message + SKIP_HINT)
        findings.reject(problem)

    def _add(self, sample: Decoded, findings: SplitFindings, writer: ShardWriter) -> bool:
        findings.add(sample, self._dataset.classes.names)
        if sample.moments is not None:
            self.statistics.merge(sample.moments)
        height, width = sample.size
        return writer.add(
            sample.key,
            sample.members,
            labels=sample.labels,
            height=height,
            width=width,
            georeference=sample.georeference,
        )

    def _save(self, name: str, findings: SplitFindings, finished: Finished) -> None:
        self.journal.splits[name] = SplitJournal(findings=findings.copy(), finished=finished)
        self.journal.statistics = self.statistics.moments
        self.journal.save(self._path)


def _move(source: Path, target: Path) -> None:
    """Moves the finished shards to the output, which may lie on another disk; then they are copied."""
    try:
        source.rename(target)
    except OSError:
        target.mkdir()
        for file in source.iterdir():  # one by one, so that a full disk is said as what it is
            shutil.copyfile(file, target / file.name)
