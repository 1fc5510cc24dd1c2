"""Gradients of every candidate's logit, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["candidate_gradients"]


def candidate_gradients(
    logits: Tensor, candidates: Tensor, inputs: Sequence[Tensor]
) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    """Differentiates each candidate's logit by ``inputs``, in as many backward passes as an image has candidates.

    Pass k differentiates the sum over the images of each image's k-th candidate. Images do not influence each other,
    so the gradient of the sum holds each image's own gradient.

    Args:
        logits: (B, C), with a graph that reaches back to ``inputs`` alone.
        candidates: (B, C) bool.
        inputs: tensors whose first axis is the batch; none: no pass.

    Yields:
        Which class of each image a pass was for, (B, C) bool with at most one a row, and the gradients.
    """
    passes = int(candidates.sum(dim=1).max()) if inputs else 0
    rank = candidates.cumsum(dim=1)
    for k in range(1, passes + 1):
        kth = candidates & (rank == k)
        yield kth, torch.autograd.grad(logits, inputs, kth.to(logits.dtype), retain_graph=k < passes)
