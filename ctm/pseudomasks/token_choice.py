"""Whether a split's masks may be made from the candidates' tokens alone: only if that hardly changes them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ctm.data.shards import Split
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.masks import extract_pseudomasks
from ctm.pseudomasks.samples import spread
from ctm.stage import Metrics

__all__ = ["choose_tokens"]

logger = logging.getLogger(__name__)

CHECKED = 32
"""Images whose masks are made both ways."""


def choose_tokens(
    model: ClassTokenViT, split: Split, *args: Any, config: ExtractConfig, **settings: Any
) -> tuple[ExtractConfig, Metrics]:
    """Makes the masks of some images both ways, and takes all tokens if more of them than the tolerance differs.

    Args:
        model: gated or pruned classifier.
        split: the whole split, even where only a part of it is extracted, so that all parts choose alike.
        args: the other positional arguments of ``extract_pseudomasks``.
        config: the extraction, with ``tokens: candidates``.
        settings: the other arguments of ``extract_pseudomasks``.

    Returns:
        The extraction, whose ``tokens`` are those to use, and why: ``used``; ``difference``, the fraction of the pixels
        that differ between the two ways (0..1), None if there is no image; and how many ``images`` were compared.
    """
    indices = spread(len(split), CHECKED)
    ways = [
        extract_pseudomasks(
            model,
            split,
            *args,
            config=config.model_copy(update={"tokens": tokens, "confidence": False}),
            samples=indices,
            **{**settings, "description": f"{split.name}, {tokens} tokens"},
        )
        for tokens in ("all", "candidates")
    ]
    differing, pixels = 0, 0
    for one, other in zip(*ways, strict=True):
        differing += int(np.count_nonzero(one.mask != other.mask))
        pixels += one.mask.size
    difference = differing / pixels if pixels else None
    found = _within(config, difference, split=split.name, images=len(indices))
    return found, {"used": found.tokens, "difference": difference, "images": len(indices)}


def _within(config: ExtractConfig, difference: float | None, *, split: str, images: int) -> ExtractConfig:
    """The configuration to use; a warning where it is not the one that was asked for."""
    found = f"{difference or 0:.2%} of the pixels of {images} images of {split} differ"
    if difference is None or difference <= config.tokens_tolerance:
        logger.info("the candidates' tokens alone: %s from what all tokens give", found)
        return config
    logger.warning(
        "extract_pseudomasks.tokens: with the candidates' tokens alone %s from what all tokens give, and "
        "tokens_tolerance is %.2f%%: all tokens are used.",
        found,
        100 * config.tokens_tolerance,
    )
    return config.model_copy(update={"tokens": "all"})
