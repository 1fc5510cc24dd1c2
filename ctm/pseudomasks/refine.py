"""Refinement of class maps: one step of propagation along the patch-to-patch attention."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["propagate"]


def propagate(maps: Tensor, affinity: Tensor) -> Tensor:
    """Gives each patch the average of the patches it attends to.

    Args:
        maps: (B, C, h0, w0).
        affinity: patch-to-patch attention, (B, P, P) with P = h0 · w0, of any scale: each row is normalised to sum 1.
            A row of zeros leaves its patch as it is.

    Returns:
        Maps of the same shape.
    """
    total = affinity.sum(dim=-1, keepdim=True)  # (B, P, 1)
    flat = maps.flatten(2).transpose(1, 2).to(affinity.dtype)  # (B, P, C)
    refined = torch.where(total > 0, affinity @ flat / total, flat)
    return refined.transpose(1, 2).reshape(maps.shape)
