"""Strategy cam: the patch head's scores, a class activation map."""

from __future__ import annotations

import torch
from torch import Tensor

from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.strategies.reading import Choose, ClassMaps, of_candidates

__all__ = ["cam"]


@torch.inference_mode()
def cam(model: ClassTokenViT, images: Tensor, choose: Choose, config: MapConfig) -> ClassMaps:
    """Positive part of the patch head's logits, no gradient (Xu et al., MCTformer, CVPR 2022, section 3.3: PatchCAM).

    An image in which no patch has a positive score for a class has a map of zeros there.
    """
    tokens = model.encode(model.embed(images))
    scores = model.patch_scores(tokens, model.grid_of(images))
    return of_candidates(scores.relu(), model.classify(tokens), choose)
