"""Losses of a segmenter whose masks are partly wrong: pure functions of logits and target."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from ctm.data.classes import IGNORE

__all__ = ["LOSSES", "bootstrapped_cross_entropy", "pixel_cross_entropy", "symmetric_cross_entropy"]

SCE_ALPHA, SCE_BETA, SCE_LOG_ZERO = 0.1, 1.0, -4.0
"""Wang et al. for ten classes: weights of the cross-entropy and of the reverse one, and what stands for log 0."""

BOOTSTRAP_BETA = 0.8
"""Reed et al., hard bootstrapping: trust in the given label; the rest is the trust in the prediction."""


def pixel_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the decided pixels; 0 where all are ignored.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64 classes, 255 where a pixel is ignored.
    """
    total = cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def symmetric_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus reverse cross-entropy, which is bounded: a wrong label pulls only so hard.

    Wang et al., "Symmetric cross entropy for robust learning with noisy labels", ICCV 2019, equations 5 to 7: the
    reverse term -sum_k p_k log q_k of a one-hot label q is A (p_y - 1), where A stands for log 0. Arguments and
    averaging as in ``pixel_cross_entropy``.
    """
    given, _ = _log_probabilities(logits, target)
    return _mean(-SCE_ALPHA * given + SCE_BETA * SCE_LOG_ZERO * (given.exp() - 1), target)


def bootstrapped_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against a mixture of the given label and the class that the network holds most likely.

    Reed et al., "Training deep neural networks on noisy labels with bootstrapping", ICLR 2015 workshop, equation 7
    (hard bootstrapping). Arguments and averaging as in ``pixel_cross_entropy``.
    """
    given, likeliest = _log_probabilities(logits, target)
    return _mean(-BOOTSTRAP_BETA * given - (1 - BOOTSTRAP_BETA) * likeliest, target)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": pixel_cross_entropy,
    "sce": symmetric_cross_entropy,
    "bootstrap": bootstrapped_cross_entropy,
}
"""By the names of ``train_segmenter.loss``."""


def _log_probabilities(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of the given class (class 0 where ignored) and of the likeliest one, both (B, H, W)."""
    logs = log_softmax(logits, dim=1)
    given = logs.gather(1, target.masked_fill(target == IGNORE, 0)[:, None])[:, 0]
    return given, logs.amax(dim=1)


def _mean(pixels: Tensor, target: Tensor) -> Tensor:
    decided = target != IGNORE
    return pixels.masked_fill(~decided, 0).sum() / decided.sum().clamp(min=1)
