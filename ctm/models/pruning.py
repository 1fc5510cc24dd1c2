"""Physical removal of closed attention heads, and the proof that the result computes the same, and how fast."""

from __future__ import annotations

import copy
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from ctm.errors import ModelError
from ctm.models.class_token_vit import ClassTokenViT

__all__ = ["compare_models", "forward_seconds", "prune_heads"]


def prune_heads(model: ClassTokenViT) -> ClassTokenViT:
    """A copy of the model without its closed heads and without gates; the input is untouched.

    Rows of the query, key and value weights and columns of the projection are cut out. A block
    whose heads are all closed keeps the bias of its projection alone. ``kept_heads`` tells which are left.

    Raises:
        ModelError: the model has no gates, or no head is open in any block.
    """
    if not model.gates:
        raise ModelError("the model has no head gates: its closed heads have been removed already")
    kept = [[int(head) for head in gate.open_heads().nonzero()] for gate in model.gates]
    if not any(kept):
        raise ModelError(
            f"no head is open in any of the {len(kept)} blocks, so nothing of the image reaches the class tokens; "
            "train again with a smaller pruning weight or a longer warm-up of it"
        )
    pruned = copy.deepcopy(model)
    for attention, heads in zip(pruned.attentions, kept, strict=True):
        attention.keep_heads(heads)
    return pruned


def compare_models(gated: ClassTokenViT, pruned: ClassTokenViT, images: Tensor) -> float:
    """Largest absolute difference of logits and attention maps between two models on a batch; NaN where one has NaN.

    Args:
        gated: model with gates, in evaluation mode.
        pruned: its pruned copy, in evaluation mode.
        images: (B, channels, H, W).
    """
    pairs = zip(gated.attention_maps(images), pruned.attention_maps(images), strict=True)
    return float(torch.stack([(one - other).abs().max() for one, other in pairs]).max())


@torch.inference_mode()
def forward_seconds(model: ClassTokenViT, images: Tensor, *, repeats: int) -> float:
    """Median seconds of a forward pass over ``repeats`` runs, after one run to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        _wait(images.device)
        start = perf_counter()
        model(images)
        _wait(images.device)
        seconds.append(perf_counter() - start)
    return median(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
