"""Some samples of a split, evenly spread over it, and their pseudo-masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ctm.data.inputs import InputSpec
from ctm.data.shards import Split
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.extract import PseudoMask, extract_pseudomasks

__all__ = ["masks_of", "spread"]


def spread(samples: int, count: int) -> list[int]:
    """Indices of ``count`` of so many samples, evenly spread over them; of all where there are fewer.

    >>> spread(8, 3)
    [0, 4, 7]
    """
    chosen = np.linspace(0, samples - 1, min(count, samples)).round()
    return sorted({int(index) for index in chosen})


def masks_of(
    indices: Sequence[int],
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    *,
    config: ExtractConfig,
    **settings: Any,
) -> Iterator[PseudoMask]:
    """Yields the pseudo-masks of some samples, as ``extract_pseudomasks`` makes them, but without confidence.

    Args:
        indices: of the samples in ``split``, ascending.
        model: the classifier.
        split: the samples.
        inputs: what the model takes.
        config: the extraction, of a strategy other than auto.
        settings: the other arguments of ``extract_pseudomasks``.
    """
    plain = config.model_copy(update={"confidence": False})  # the masks are looked at, not learned from
    for run in _runs(indices):
        for found in extract_pseudomasks(model, split.between(run), inputs, config=plain, **settings):
            yield replace(found, index=run.start + found.index)


def _runs(indices: Sequence[int]) -> Iterator[range]:
    """Neighbours together: a split is read from a first to a last sample.

    >>> list(_runs([0, 1, 2, 5, 7, 8]))
    [range(0, 3), range(5, 6), range(7, 9)]
    """
    ends = [place for place, (left, right) in enumerate(pairwise(indices), start=1) if right != left + 1]
    for start, stop in pairwise([0, *ends, len(indices)]):
        yield range(indices[start], indices[stop - 1] + 1) if indices else range(0)
