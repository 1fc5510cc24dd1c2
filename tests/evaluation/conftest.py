"""The classifier that the tests of scores and pages read: untrained, tiny, pruned."""

from __future__ import annotations

import pytest
import torch

from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.pruning import prune_heads
from ctm.params import Params


@pytest.fixture(scope="module")
def model(tiny_params: Params) -> ClassTokenViT:
    """A classifier of the demo's classes, the same in every module."""
    torch.manual_seed(0)
    return prune_heads(ClassTokenViT(tiny_params.model, tiny_params.gates, num_classes=8, in_channels=15).eval())
