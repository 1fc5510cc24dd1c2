"""Where an image's own maps tell its background from its objects, without any label of a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["otsu_threshold"]

BINS = 256


def otsu_threshold(values: NDArray[np.floating[Any]]) -> float:
    """The threshold that parts the values into two groups with the largest variance between them.

    Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979), over a histogram of 256
    bins. Where a whole gap does as well, its middle.

    It always parts: an image without background loses the weaker half of its objects, and one where they take less
    than a few percent, or whose values have a single hump, is cut somewhere within the larger group. So it suits sets
    whose images have objects and background in comparable shares.

    Args:
        values: the largest map of each pixel, scaled to 0..1; any shape, not empty.

    Returns:
        A value from 0 to 1; what lies below it is background. 0 if all values fall into one bin: nothing to part.
    """
    counts, edges = np.histogram(values, bins=BINS, range=(0, 1))
    below = counts.cumsum()[:-1]  # whole numbers, so that a gap's variances are equal and not only nearly
    moments = (counts * np.arange(BINS)).cumsum()
    above = counts.sum() - below
    parted = (below > 0) & (above > 0)
    if not parted.any():
        return 0.0
    below, above, moment = below[parted], above[parted], moments[:-1][parted]
    between = below * above * ((moments[-1] - moment) / above - moment / below) ** 2
    return float(edges[1:-1][parted][between == between.max()].mean())
