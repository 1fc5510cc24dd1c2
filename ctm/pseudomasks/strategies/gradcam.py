"""Strategy gradcam: patch tokens weighted by how much they raise the class's logit."""

from __future__ import annotations

import torch
from torch import Tensor

from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.strategies.gradients import candidate_gradients
from ctm.pseudomasks.strategies.reading import Choose, ClassMaps, first_block

__all__ = ["gradcam"]


def gradcam(model: ClassTokenViT, images: Tensor, choose: Choose, config: MapConfig) -> ClassMaps:
    """Positive part of the patch tokens weighted by their mean gradient, summed over the last ``config.blocks``.

    Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2, with the D channels of the patch tokens as the feature
    maps: ``map_c = sum over blocks of relu(sum over d of a_d * tokens_d)``, where ``a_d`` is the mean over the patches
    of d logit_c / d tokens_d and the tokens are those that enter the block. What leaves the last block is no such
    layer: its patch tokens have no influence on the logits.

    Blocks before the chosen ones run without gradient; see ``candidate_gradients`` for the backward passes.
    """
    first = first_block(model, config.blocks)
    grid = model.grid_of(images)
    patches = model.patches_of(grid)
    with torch.no_grad():
        tokens = model.encode(model.embed(images), stop=first)
    entering = []
    with torch.enable_grad():
        tokens.requires_grad_()
        for block in range(first, len(model.blocks)):
            entering.append(tokens)
            tokens = model.encode(tokens, start=block, stop=block + 1)
        logits = model.classify(tokens)
    candidates = choose(logits.detach())
    maps = logits.new_zeros(*logits.shape, grid[0] * grid[1])
    for kth, gradients in candidate_gradients(logits, candidates, entering):
        for block_input, gradient in zip(entering, gradients, strict=True):
            weights = gradient[:, patches].mean(dim=1)  # (B, D)
            scores = torch.einsum("bpd,bd->bp", block_input[:, patches].detach(), weights)
            maps += kth[:, :, None] * scores.relu()[:, None]
    return ClassMaps(maps.reshape(*logits.shape, *grid), logits.detach(), candidates)
