"""What was found in a raw data set: counts, what was left out, what is wrong with which file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ctm.data.datasets.reader import Problem, RawDataset
from ctm.data.decoding import Decoded
from ctm.stage import Metrics

__all__ = ["SplitFindings", "all_problems", "findings_lines", "shortened", "split_metrics"]

FEW = 10
"""Classes without an image that are named."""
LISTED = 20
"""Problems that are shown one by one."""


@dataclass
class SplitFindings:
    """What has been found in the entries of a split so far.

    Attributes:
        taken: entries that were looked at.
        samples: those that are good.
        with_truth: those of them that have a mask.
        labels: how many of them carry each image-level label, by class name.
        notes: how many of them had something mended or passed over, by its words.
        problems: what was wrong with the others.
    """

    taken: int = 0
    samples: int = 0
    with_truth: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def add(self, sample: Decoded, names: Sequence[str]) -> None:
        """Counts a good sample; ``names`` are the classes in the order of the mask values."""
        self.taken += 1
        self.samples += 1
        self.with_truth += sample.with_truth
        self.labels.update(names[value] for value in sample.labels)
        self.notes.update(sample.notes)

    def copy(self) -> SplitFindings:
        """The counts as they are now."""
        return replace(self, labels=self.labels.copy(), notes=self.notes.copy(), problems=list(self.problems))

    def reject(self, problem: Problem) -> None:
        """Counts a sample that cannot be used."""
        self.taken += 1
        self.problems.append(problem)


def split_metrics(findings: SplitFindings, names: Sequence[str]) -> Metrics:
    """Counts of a split; every class of ``names`` is among them."""
    labels = {name: findings.labels[name] for name in names}
    return {
        "samples": findings.samples,
        "with_truth": findings.with_truth,
        "skipped": len(findings.problems),
        "labels_per_sample": sum(labels.values()) / max(findings.samples, 1),
        "imbalance": _balance(labels),
        "classes": labels,
    }


def _balance(labels: Mapping[str, int]) -> float | None:
    """How many times more samples the most frequent class has than the rarest; None where a class has no sample."""
    rarest = min(labels.values(), default=0)
    return max(labels.values()) / rarest if rarest else None


def findings_lines(
    dataset: RawDataset, findings: Mapping[str, SplitFindings], *, listed: int | None = LISTED
) -> Iterator[str]:
    """The lines of a table for people: counts of each split and class, what was left out, what is wrong.

    Args:
        dataset: the data set.
        findings: what was found in its splits.
        listed: how many problems are shown one by one; None for all.
    """
    names = dataset.classes.token_names
    metrics = {split: split_metrics(found, names) for split, found in findings.items()}
    yield f"  {'':<10}{'images':>9}{'with truth':>12}{'labels/image':>14}{'unusable':>10}"
    for split, values in metrics.items():
        counts = f"{values['samples']:>9,}{values['with_truth']:>12,}"
        yield f"  {split:<10}{counts}{values['labels_per_sample']:>14.2f}{values['skipped']:>10,}"
    width = max(map(len, (*names, "class")))
    yield f"  {'class':<{width}}" + "".join(f"{split:>9}" for split in metrics)
    for name in names:
        yield f"  {name:<{width}}" + "".join(f"{values['classes'][name]:>9,}" for values in metrics.values())
    for split, values in metrics.items():
        if values["imbalance"] is not None:
            yield f"  {split}: the most frequent class has {values['imbalance']:.1f} times the images of the rarest"
        missing = [name for name, count in values["classes"].items() if count == 0]
        if missing:
            yield f"  {split}: no image with the label {', '.join(shortened(missing, FEW))}"
    for reason, count in dataset.left_out.items():
        yield f"  left out: {count:,} {reason}"
    notes = sum((found.notes for found in findings.values()), Counter[str]())
    for note, count in notes.most_common():
        yield f"  {count:,} image{'s' if count > 1 else ''}: {note}"
    problems = all_problems(dataset, findings)
    if problems:
        yield f"  {len(problems):,} {'file' if len(problems) == 1 else 'files'} cannot be used:"
    messages = [problem.message for problem in problems]
    yield from (f"    {line}" for line in shortened(messages, len(messages) if listed is None else listed))


def shortened(items: Sequence[str], most: int) -> list[str]:
    """So many of the items at most, and how many there are besides."""
    return [*items[:most], *([f"… and {len(items) - most:,} more"] if len(items) > most else ())]


def all_problems(dataset: RawDataset, findings: Mapping[str, SplitFindings]) -> list[Problem]:
    """What is wrong with the lists, then with the samples of each split."""
    return [*dataset.problems, *(problem for found in findings.values() for problem in found.problems)]
