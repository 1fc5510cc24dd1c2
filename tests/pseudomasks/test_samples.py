"""Some samples of a split: which, and that their masks are those of the whole extraction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctm.data.inputs import InputSpec
from ctm.data.shards import ShardFolder
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.pruning import prune_heads
from ctm.params import Params
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.masks import extract_pseudomasks
from ctm.pseudomasks.samples import masks_of, spread


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (1, [0]), (2, [0, 7]), (3, [0, 4, 7]), (8, list(range(8))), (100, list(range(8)))]
)
def test_samples_are_spread_evenly_over_the_split(count: int, expected: list[int]):
    assert spread(8, count) == expected


def test_nothing_can_be_spread_over_an_empty_split():
    assert spread(0, 5) == []


@pytest.mark.parametrize("indices", [[], [3], [0, 1, 2, 5, 7], list(range(8))])
def test_the_masks_are_those_of_the_whole_split(tiny_shards: ShardFolder, tiny_params: Params, indices: list[int]):
    torch.manual_seed(0)
    model = prune_heads(ClassTokenViT(tiny_params.model, tiny_params.gates, num_classes=8, in_channels=15).eval())
    split, inputs = tiny_shards.split("val"), InputSpec((32, 32), 15, 1e-4)
    settings = {"classes": tiny_shards.classes, "config": ExtractConfig(), "device": torch.device("cpu")}
    whole = list(extract_pseudomasks(model, split, inputs, **settings))  # type: ignore[arg-type]
    found = list(masks_of(indices, model, split, inputs, **settings))  # type: ignore[arg-type]
    assert [one.index for one in found] == indices
    assert all(np.array_equal(one.mask, whole[one.index].mask) for one in found)
