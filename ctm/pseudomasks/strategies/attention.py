"""Strategy attention: where each class token looks, the paper's own map."""

from __future__ import annotations

import torch
from torch import Tensor

from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.strategies.reading import Choose, ClassMaps, of_candidates

__all__ = ["attention"]


@torch.inference_mode()
def attention(model: ClassTokenViT, images: Tensor, choose: Choose, config: MapConfig) -> ClassMaps:
    """Attention of the class's token to the patches, over all blocks (Hanna & Borth, ICCV 2025)."""
    maps, logits = model.attention_maps(images)
    return of_candidates(maps, logits, choose)
