"""What reading a batch gives, and what every strategy needs for it: the candidates and the blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ctm.models.class_token_vit import ClassTokenViT

__all__ = ["Choose", "ClassMaps", "first_block", "of_candidates"]

Choose = Callable[[Tensor], Tensor]
"""From a batch's logits (B, C) to its candidates (B, C) bool, on the logits' device."""


@dataclass(frozen=True)
class ClassMaps:
    """The class maps of a batch.

    Attributes:
        maps: (B, C, h0, w0), float32, non-negative, not normalised; zero for classes that are no candidates.
        logits: (B, C).
        candidates: classes that the masks may hold, (B, C) bool.
    """

    maps: Tensor
    logits: Tensor
    candidates: Tensor


def of_candidates(maps: Tensor, logits: Tensor, choose: Choose) -> ClassMaps:
    """Keeps of all classes' maps, (B, C, h0, w0), those of the candidates."""
    candidates = choose(logits)
    return ClassMaps(maps * candidates[:, :, None, None], logits, candidates)


def first_block(model: ClassTokenViT, blocks: int | None) -> int:
    """Index of the first of the last ``blocks`` blocks; None: of all.

    Raises:
        ValueError: the model does not have as many.
    """
    depth = len(model.blocks)
    if blocks is not None and not 1 <= blocks <= depth:
        raise ValueError(f"blocks is {blocks}, but the classifier has {depth}: choose 1 to {depth}, or null for all")
    return 0 if blocks is None else depth - blocks
