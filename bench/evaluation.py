"""Rows of the table: mIoU of many masks, by one confusion matrix against a loop over the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.data import smooth_mask
from bench.row import Row
from ctm.data.classes import IGNORE, ClassTable
from ctm.evaluation.masks import MaskScore

__all__ = ["evaluation_rows", "miou_by_classes", "miou_by_confusion"]

SIZES = {"DFC2020": (8, (256, 256)), "EndoTect": (24, (512, 640)), "ADE20K": (151, (512, 683))}
"""Mask values, and height and width of a usual truth."""

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Prediction and truth, (H, W) each."""


def evaluation_rows(*, masks: int = 20) -> Iterator[Row]:
    """A row for each data set of the paper's Table 7."""
    for name, (classes, size) in SIZES.items():
        pairs = mask_pairs(masks, classes, size)
        yield Row(
            f"mIoU, {name}, {classes} classes: class by class ÷ confusion",
            partial(miou_by_classes, pairs, classes),
            partial(miou_by_confusion, pairs, classes),
            lambda reference, ours: bool(reference == ours),
            samples=masks,
        )


def miou_by_classes(pairs: Sequence[Pair], classes: int) -> float:
    """Intersection and union of every class of every image as masks of booleans, summed over the images."""
    intersection, union, true = (np.zeros(classes, dtype=np.int64) for _ in range(3))
    for prediction, truth in pairs:
        valid = truth != IGNORE
        for k in range(classes):
            predicted, present = (prediction == k) & valid, truth == k
            intersection[k] += (predicted & present).sum()
            union[k] += (predicted | present).sum()
            true[k] += present.sum()
    known = [float(intersection[k] / union[k]) for k in range(classes) if true[k]]
    return sum(known) / len(known)


def miou_by_confusion(pairs: Sequence[Pair], classes: int) -> float:
    """The same by ctm."""
    score = MaskScore(ClassTable(tuple(map(str, range(classes)))))
    for prediction, truth in pairs:
        score.update(prediction, truth)
    return float(score.compute()["miou"])


def mask_pairs(number: int, classes: int, size: tuple[int, int]) -> list[Pair]:
    """Masks with smooth borders of four classes each, and pixels without truth or decision."""
    rng = np.random.default_rng(0)

    def mask() -> NDArray[np.uint8]:
        places = 2 * smooth_mask(rng, size) + smooth_mask(rng, size)  # 0..3
        values: NDArray[np.uint8] = rng.choice(classes, 4, replace=False).astype(np.uint8)[places]
        values[smooth_mask(rng, size) + smooth_mask(rng, size) == 2] = IGNORE
        return values

    return [(mask(), mask()) for _ in range(number)]
