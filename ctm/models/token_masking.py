"""Class-token masking: in training, tokens of absent classes are dropped at random before the classifier."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mask_absent_tokens"]


def mask_absent_tokens(
    tokens: Tensor,
    present: Tensor,
    ratio: float,
    generator: torch.Generator | None = None,
    *,
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """Zeroes each absent class's token with probability ``ratio``; tokens of present classes are never masked.

    Hanna & Borth, ICCV 2025, class-specific token masking. A masked token is exact zeros and the others are not
    rescaled. Draws are independent for each image and class. What a zero token tells a logit is the head's matter; see
    ``ctm.models.class_head``.

    Args:
        tokens: output class tokens, (B, C, D).
        present: which classes the image has, (B, C) bool.
        ratio: masking probability of an absent class, 0 <= ratio < 1.
        generator: source of the draws, on any device; None: torch's global one.
        rank: number of this process among those that share a batch, of which it has every ``world``-th image.
        world: how many they are: with equal generators they draw what one process would draw for the whole batch.

    Returns:
        A new tensor, (B, C, D).

    Raises:
        ValueError: ``ratio`` is outside [0, 1). At 1 the zero pattern alone would tell which classes are present.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"masking ratio must be at least 0 and below 1, not {ratio}")
    device = tokens.device if generator is None else generator.device
    draws = torch.rand(world * present.shape[0], *present.shape[1:], generator=generator, device=device)
    draws = draws[rank::world].to(tokens.device)
    masked = ~present & (draws < ratio)
    return tokens.masked_fill(masked.unsqueeze(-1), 0)
