"""The ways to read class maps from the classifier, one a file; each a function of one name, called by `read_maps`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ctm.errors import ModelError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.map_config import MapConfig, StrategyName
from ctm.pseudomasks.recipes import needs_patch_head, without_patch_head
from ctm.pseudomasks.strategies.attention import attention
from ctm.pseudomasks.strategies.cam import cam
from ctm.pseudomasks.strategies.fused import fused
from ctm.pseudomasks.strategies.gradcam import gradcam
from ctm.pseudomasks.strategies.reading import Choose, ClassMaps
from ctm.pseudomasks.strategies.relevance import relevance

__all__ = ["STRATEGIES", "Strategy", "read_maps"]

Strategy = Callable[[ClassTokenViT, Tensor, Choose, MapConfig], ClassMaps]
"""How the maps of a batch are read; the arguments are those of ``read_maps``."""

STRATEGIES: dict[StrategyName, Strategy] = {
    "attention": attention,
    "relevance": relevance,
    "cam": cam,
    "fused": fused,
    "gradcam": gradcam,
}
"""By the name that ``MapConfig.strategy`` gives."""


def read_maps(model: ClassTokenViT, images: Tensor, choose: Choose, config: MapConfig) -> ClassMaps:
    """Reads the maps of a batch by the configured strategy, in one forward pass over all blocks.

    Args:
        model: gated or pruned classifier in evaluation mode; freezing its parameters saves memory.
        images: (B, channels, H, W), not made in inference mode.
        choose: which classes are candidates.
        config: strategy, blocks and rows.

    Raises:
        ModelError: the strategy reads a patch head that the model does not have.
        ValueError: the model has fewer blocks than asked for.
    """
    if model.patch_head is None and needs_patch_head(config.strategy):
        raise ModelError(without_patch_head([config.strategy]))
    return STRATEGIES[config.strategy](model, images, choose, config)
