"""Strategy relevance: the attention that raises the class's logit."""

from __future__ import annotations

import torch
from torch import Tensor

from ctm.models.attention import record_class_rows
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.strategies.gradients import candidate_gradients
from ctm.pseudomasks.strategies.reading import Choose, ClassMaps, first_block

__all__ = ["relevance"]


def relevance(model: ClassTokenViT, images: Tensor, choose: Choose, config: MapConfig) -> ClassMaps:
    """Attention times its gradient, positive part, summed over class tokens, heads and the last ``config.blocks``.

    Chefer et al., "Transformer interpretability beyond attention visualization", CVPR 2021, and "Generic
    attention-model explainability", ICCV 2021:
    ``map_c = sum over blocks, heads and class-token rows of relu(A * d logit_c / d A)``,
    where the rows are those of all class tokens, or with ``config.rows`` own that of c alone.

    Blocks before the chosen ones run without gradient; see ``candidate_gradients`` for the backward passes.
    """
    first = first_block(model, config.blocks)
    grid = model.grid_of(images)
    with torch.no_grad():
        tokens = model.encode(model.embed(images), stop=first)
    with torch.enable_grad(), record_class_rows(model.attentions[first:], model.num_classes) as rows:
        logits = model.classify(model.encode(tokens, start=first))
    candidates = choose(logits.detach())
    maps = logits.new_zeros(*logits.shape, grid[0] * grid[1])
    # Without a head in these blocks there are no rows, and nothing is relevant.
    for kth, gradients in candidate_gradients(logits, candidates, rows):
        relevant = _positive_part(rows, gradients, model.patches_of(grid))
        if config.rows == "all":
            relevant = relevant.sum(dim=1, keepdim=True)
        maps += kth[:, :, None] * relevant
    return ClassMaps(maps.reshape(*logits.shape, *grid), logits.detach(), candidates)


@torch.inference_mode()
def _positive_part(rows: list[Tensor], gradients: tuple[Tensor, ...], patches: slice) -> Tensor:
    """relu(attention * gradient) summed over blocks and heads, (B, C, P): a row for each class token."""
    products = [
        (attention[..., patches] * gradient[..., patches]).relu().sum(dim=1)
        for attention, gradient in zip(rows, gradients, strict=True)
    ]
    return torch.stack(products).sum(dim=0)
