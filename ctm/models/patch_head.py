"""The patch head: a second classifier on the patch tokens, whose scores tell where a class is without a gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PatchHead", "pool_by_rank"]

LAST_WEIGHT = 0.99**144
"""Weight of the lowest patch as a fraction of the highest's: each of 144 patches counts 0.99 of the one above it."""


class PatchHead(nn.Module):
    """A score of every class for every patch token (Xu et al., MCTformer, CVPR 2022, section 3.3: its PatchCAM).

    One linear layer, that is a 1x1 convolution, where MCTformer has a 3x3 one: the tokens have exchanged what they know
    in every block, so a patch needs no neighbours here, and the score stays that of one token, has nothing to pad at
    the border, and costs a ninth of the weights.

    Attributes:
        linear: from the width D of a token to the C classes.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes)

    def forward(self, patches: Tensor, classes: Tensor | None = None) -> Tensor:
        """Logits of every patch, (B, P, D) -> (B, P, C), or of some classes alone, with indices (B, K) -> (B, P, K)."""
        if classes is not None:
            return patches @ self.linear.weight[classes].mT + self.linear.bias[classes][:, None]
        scores: Tensor = self.linear(patches)
        return scores


def pool_by_rank(scores: Tensor) -> Tensor:
    """Weighted mean of the patches' logits, the highest first, (B, P, C) -> (B, C): one logit a class for the image.

    Global weighted ranking pooling (Kolesnikov and Lampert, SEC, ECCV 2016, section 3.2, used by MCTformer+ too): the
    score of rank j = 0 … P - 1 counts ``LAST_WEIGHT ** (j / P)``. There the decay is a rank's own, so that a finer grid
    would shift the weight to a smaller part of the image; here the same share of the patches holds the same share of
    the weight whatever P is.
    """
    count = scores.shape[1]
    ranks = torch.arange(count, device=scores.device, dtype=torch.float32)
    weights = LAST_WEIGHT ** (ranks / count)
    ordered = scores.float().sort(dim=1, descending=True).values
    return (ordered * (weights / weights.sum())[:, None]).sum(dim=1)  # no product that autocast would round to bf16
