"""The head of the classifier: logits from the output class tokens, one dense layer or one row of weights a class."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["DenseHead", "DiagonalHead", "Head", "make_head"]

Head = Literal["dense", "diagonal"]
"""Which class tokens a logit is made of: of all, or of the class's own alone."""


class DenseHead(nn.Linear):
    """The paper's head: one layer from the concatenated tokens, C·D, to C logits (Hanna & Borth, ICCV 2025, section 3).

    A token that class-token masking has set to zero tells every logit that its class is absent, and takes what it adds
    to all of them away. It has C²·D weights: 17.5 million for the 151 classes of ADE20K at D = 768.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(num_classes * width, num_classes)

    def forward(self, tokens: Tensor, classes: Tensor | None = None) -> Tensor:
        """Logits of the classes.

        Args:
            tokens: normed output class tokens, (B, C, D), or (B, K, D) those of ``classes``.
            classes: indices of the classes whose tokens there are, (B, K); the logits are theirs, and the tokens of all
                other classes count as zeros, which is what masking shows the head in training. None: all.

        Returns:
            (B, C), or (B, K) in the order of ``classes``.
        """
        if classes is None:
            return super().forward(tokens.flatten(1))
        blocks = self.weight.view(self.out_features, self.out_features, -1)  # (C, C, D): logit, token, channel
        chosen = blocks[classes[:, :, None], classes[:, None, :]]  # (B, K, K, D)
        return torch.einsum("bltd,btd->bl", chosen, tokens) + self.bias[classes]


class DiagonalHead(nn.Module):
    """Logit c from class token c alone: the dense head's blocks on the diagonal, C·D weights instead of C²·D.

    As in C-Tran (Lanchantin et al., "General multi-label image classification with transformers", CVPR 2021) and
    Query2Label (Liu et al., arXiv 2107.10834), where each label's embedding has a linear layer of its own. MCTformer
    (Xu et al., CVPR 2022) is the case in which nothing is learned: every weight 1/D, no bias.

    A token that class-token masking has set to zero leaves its own logit at the bias and changes no other: masking
    tells no class about another here. In training it leaves out a share of what an absent class's weights would learn,
    and teaches the bias that a class is absent unless its token says otherwise. The bias moves slowly, so that the
    masked loss stays high where the unmasked one is low: this head is judged by the latter.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)  # as nn.Linear of that width
        self.weight = nn.Parameter(nn.init.uniform_(torch.empty(num_classes, width), -bound, bound))
        self.bias = nn.Parameter(nn.init.uniform_(torch.empty(num_classes), -bound, bound))

    def forward(self, tokens: Tensor, classes: Tensor | None = None) -> Tensor:
        """Logits of the classes; the arguments are those of ``DenseHead.forward``."""
        weight, bias = (self.weight, self.bias) if classes is None else (self.weight[classes], self.bias[classes])
        return (tokens * weight).sum(dim=-1) + bias


def make_head(kind: Head, num_classes: int, width: int) -> DenseHead | DiagonalHead:
    """The head of that kind for C classes and tokens of width D, started at random."""
    return (DenseHead if kind == "dense" else DiagonalHead)(num_classes, width)
