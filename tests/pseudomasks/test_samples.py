"""Some samples of a split: which, and that their masks are those of the whole extraction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctm.data.inputs import InputSpec
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.masks import extract_pseudomasks
from ctm.pseudomasks.samples import masks_of, spread


@pytest.mark.parametrize(
    ("samples", "count", "expected"),
    [
        (8, 0, []),
        (8, 1, [0]),
        (8, 2, [0, 7]),
        (8, 3, [0, 4, 7]),
        (8, 8, [*range(8)]),
        (8, 100, [*range(8)]),
        (0, 5, []),
    ],
)
def test_samples_are_spread_evenly_over_the_split(samples, count, expected):
    assert spread(samples, count) == expected


@pytest.mark.parametrize("indices", [[], [3], [0, 1, 2, 5, 7], list(range(8))])
def test_the_masks_are_those_of_the_whole_split(tiny_shards, tiny_model, indices):
    model = tiny_model()
    split, inputs = tiny_shards.split("val"), InputSpec((32, 32), 15, 1e-4)
    settings = {"classes": tiny_shards.classes, "config": ExtractConfig(), "device": torch.device("cpu")}
    whole = list(extract_pseudomasks(model, split, inputs, **settings))
    found = list(masks_of(indices, model, split, inputs, **settings))
    assert [one.index for one in found] == indices
    assert all(np.array_equal(one.mask, whole[one.index].mask) for one in found)
