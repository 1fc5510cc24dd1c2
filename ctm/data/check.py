"""Looking at every file of a raw data set without writing anything."""

from __future__ import annotations

from ctm.data.datasets.reader import Problem, RawDataset
from ctm.data.decoding import decode_entries
from ctm.data.findings import SplitFindings
from ctm.runtime.progress import track
from ctm.runtime.storage import Tree

__all__ = ["check_dataset"]


def check_dataset(dataset: RawDataset, tree: Tree, *, workers: int) -> dict[str, SplitFindings]:
    """Reads and decodes every sample as preprocess would.

    Args:
        dataset: the raw data set.
        tree: where its files lie.
        workers: processes that read and decode; with 0 or 1 this one does.

    Returns:
        What was found in each split.

    Raises:
        StorageError: the files cannot be reached any more.
    """
    return {name: _check_split(dataset, tree, name, workers=workers) for name in dataset.splits}


def _check_split(dataset: RawDataset, tree: Tree, name: str, *, workers: int) -> SplitFindings:
    entries, findings = dataset.splits[name], SplitFindings()
    outcomes = decode_entries(dataset, tree, entries, workers=workers, keep=False)
    for outcome in track(outcomes, description=f"checking {name}", total=len(entries)):
        if isinstance(outcome, Problem):
            findings.reject(outcome)
        else:
            findings.add(outcome, dataset.classes.names)
    return findings
