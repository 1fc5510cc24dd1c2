"""Some samples of a split, evenly spread over it, and their pseudo-masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ctm.data.inputs import InputSpec
from ctm.data.shards import Split
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.masks import PseudoMask, extract_pseudomasks

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
    """The pseudo-masks of some samples, as ``extract_pseudomasks`` makes them, but without confidence.

    They are made from all class tokens, whatever ``config.tokens`` says: then the logits are there, too, and recipes
    that are compared differ in nothing else.

    Args:
        indices: of the samples in ``split``.
        model: the classifier.
        split: the samples.
        inputs: what the model takes.
        config: the extraction, of a strategy other than auto.
        settings: the other arguments of ``extract_pseudomasks``.
    """
    plain = config.model_copy(update={"confidence": False, "tokens": "all"})
    return extract_pseudomasks(model, split, inputs, config=plain, samples=indices, **settings)
