"""Strategy fused: the class token's attention times the patch head's scores."""

from __future__ import annotations

import torch
from torch import Tensor

from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.strategies.reading import Choose, ClassMaps, first_block, of_candidates

__all__ = ["fused"]


@torch.inference_mode()
def fused(model: ClassTokenViT, images: Tensor, choose: Choose, config: MapConfig) -> ClassMaps:
    """Product of both maps, patch by patch (Xu et al., MCTformer, CVPR 2022, section 3.3), no gradient.

    As there, attention is that of the last blocks: the last ``config.blocks``. Neither map is normalised first: a
    factor of a whole map drops out in both assignments and where maps are averaged. MCTformer scales each to minimum 0
    and maximum 1; subtracting the minimum would only take the least attended patch out.
    """
    maps, tokens = model.class_attention(images, start=first_block(model, config.blocks))
    scores = model.patch_scores(tokens, model.grid_of(images))
    return of_candidates(maps * scores.relu(), model.classify(tokens), choose)
