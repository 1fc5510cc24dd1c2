"""Scores of masks against the truth: one confusion matrix over a split."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE, ClassTable
from ctm.errors import ArtifactError
from ctm.stage import Metrics

__all__ = ["MaskScore"]


class MaskScore:
    """Confusion matrix of a split, and the scores read from it (the paper's mIoU and pixel accuracy).

    Rows are true classes, columns predicted ones, and one more column holds the valid pixels without a decision (255).
    Counted with bincount: torchmetrics' matrix is square and fails on a prediction of 255, and its macro average counts
    classes that are predicted but absent from the truth.

    Attributes:
        matrix: (K, K + 1) pixels, K mask values.
    """

    def __init__(self, classes: ClassTable) -> None:
        self._names = classes.names
        self.matrix: NDArray[np.int64] = np.zeros((len(classes.names), len(classes.names) + 1), dtype=np.int64)

    def update(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Adds one image.

        Args:
            prediction: (H, W) mask values; 255 means no decision, which is a miss.
            truth: (H, W) mask values; pixels of 255 are left out.

        Raises:
            ArtifactError: if the sizes differ or a value is neither a class nor 255.
        """
        if prediction.shape != truth.shape:
            raise ArtifactError(
                f"A mask of {_size(prediction)} pixels cannot be scored against a truth of {_size(truth)} pixels: "
                "the two come from different samples. Run the stage that wrote the masks again."
            )
        count = len(self._names)
        valid = truth != IGNORE
        rows = self._known(truth[valid], "truth")
        columns = self._known(prediction[valid], "predicted mask")
        columns[columns == IGNORE] = count
        cells = np.bincount(rows * (count + 1) + columns, minlength=self.matrix.size)
        self.matrix += cells.reshape(self.matrix.shape)

    def compute(self) -> Metrics:
        """Scores of all images added so far.

        Returns:
            ``miou`` (mean over the classes that occur in the truth), ``pixel_accuracy``, ``coverage`` (share of valid
            pixels that got a class), each 0..1, and ``classes``: the IoU of each class. None where the truth has no
            pixel to say it.
        """
        correct = np.diagonal(self.matrix)
        true = self.matrix.sum(axis=1)
        union = true + self.matrix[:, :-1].sum(axis=0) - correct
        classes = {name: float(correct[k] / union[k]) if true[k] else None for k, name in enumerate(self._names)}
        known = [iou for iou in classes.values() if iou is not None]
        valid = int(true.sum())
        return {
            "miou": sum(known) / len(known) if known else None,
            "pixel_accuracy": float(correct.sum() / valid) if valid else None,
            "coverage": float(1 - self.matrix[:, -1].sum() / valid) if valid else None,
            "classes": classes,
        }

    def _known(self, values: NDArray[np.uint8], what: str) -> NDArray[np.int64]:
        """The values as integers, all of which are classes or 255."""
        unknown = np.unique(values[(values >= len(self._names)) & (values != IGNORE)])
        if unknown.size:
            raise ArtifactError(
                f"The {what} has the value {unknown[0]}, but there are {len(self._names)} classes "
                f"(0..{len(self._names) - 1}) and {IGNORE}. Run the stage that wrote it again with the same classes."
            )
        return values.astype(np.int64)


def _size(mask: NDArray[np.uint8]) -> str:
    """Height and width in words."""
    return "×".join(map(str, mask.shape))
