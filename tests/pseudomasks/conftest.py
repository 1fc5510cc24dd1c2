"""The classifiers whose maps are read, pruned and untrained: of large weights, or of the tiny pipeline."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.pruning import prune_heads
from ctm.params import Params


def large_weights(num_classes: int = 8) -> ClassTokenViT:
    """A model whose maps and probabilities differ from class to class."""
    config = ModelConfig(
        backbone="vit_tiny_patch16_224", image_size=(24, 32), patch_size=8, depth=2, embed_dim=24, num_heads=3
    )
    torch.manual_seed(0)
    model = ClassTokenViT(config, GatesConfig(), num_classes=num_classes, in_channels=15).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.gates[0].log_alpha.data[1] = -1
    return prune_heads(model)


@pytest.fixture(scope="module")
def model() -> ClassTokenViT:
    """The one of large weights for all classes of the demo."""
    return large_weights()


@pytest.fixture(scope="module")
def tiny_model(tiny_params: Params) -> Callable[..., ClassTokenViT]:
    """Makes the classifier of the tiny pipeline: ``tiny_model(patch_head=True)``."""

    def made(*, patch_head: bool = False) -> ClassTokenViT:
        torch.manual_seed(0)
        config = tiny_params.model.model_copy(update={"patch_head": patch_head})
        return prune_heads(ClassTokenViT(config, tiny_params.gates, num_classes=8, in_channels=15).eval())

    return made
