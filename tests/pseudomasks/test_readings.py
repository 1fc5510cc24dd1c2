"""Reading a split: what is left of an image for the CPU to decide."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.pseudomasks.ahead import mapped
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.masks import decide, extract_pseudomasks
from ctm.pseudomasks.readings import read_split, together

CLASSES = ClassTable(tuple("abcdefgh"))
INPUTS = InputSpec((24, 32), 15, 1e-4)
WORK: dict[str, Any] = {"device": torch.device("cpu")}
REFINEMENTS = get_args(MapConfig.model_fields["refinement"].annotation)


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_a_reading_holds_maps_of_all_classes_and_refined_at_the_pixels_the_candidates_alone(
    model, tiny_shards, refinement: Any
):
    split = tiny_shards.split("val")
    for index, found in enumerate(
        read_split(model, split, INPUTS, config=ExtractConfig(refinement=refinement), **WORK)
    ):
        assert (found.index, found.size) == (index, (32, 32))
        assert found.maps.shape == (8, 3, 4)
        assert found.candidates.tolist() == split.labels[index].tolist()
        if refinement in {"none", "affinity"}:
            assert found.refined is None
        else:
            assert found.refined.shape == (int(found.candidates.sum()), 24, 32)


@pytest.mark.parametrize("refinement", ["none", "affinity+pamr"])
@pytest.mark.parametrize("strategy", ["attention", "relevance", "gradcam"])
def test_threads_decide_as_one_does(model, tiny_shards, strategy, refinement):
    split = tiny_shards.split("train")
    config = ExtractConfig(strategy=strategy, refinement=refinement, confidence=True, batch_size=5)
    readings = read_split(model, split, INPUTS, config=config, **WORK)
    masks = mapped(lambda one: decide(one, classes=CLASSES, config=config), readings, threads=3, ahead=9)
    plain = extract_pseudomasks(model, split, INPUTS, classes=CLASSES, config=config, **WORK)
    for one, other in zip(masks, plain, strict=True):
        assert one.index == other.index
        assert np.array_equal(one.mask, other.mask)
        assert np.array_equal(one.confidence, other.confidence)


@pytest.mark.parametrize("strategy", ["attention", "relevance"])
def test_images_come_in_their_order_whatever_their_number_of_candidates_and_the_batch(model, tiny_shards, strategy):
    split = tiny_shards.split("train")
    split.labels[4] = False
    split.labels[9] = True
    settings = {"strategy": strategy, "tokens": "candidates", "refinement": "pamr"}
    one, three = (
        list(extract_pseudomasks(model, split, INPUTS, classes=CLASSES, config=config, **WORK))
        for config in (ExtractConfig(batch_size=size, **settings) for size in (1, 3))  # 2 to 3 windows of 8 and 24
    )
    assert [found.index for found in one] == [found.index for found in three] == list(range(24))
    for first, second in zip(one, three, strict=True):
        assert np.array_equal(first.mask, second.mask)
        np.testing.assert_allclose(first.logits, second.logits, rtol=1e-4, atol=1e-5)
        assert np.array_equal(np.isnan(first.logits), ~split.labels[first.index])
    assert (one[4].mask == 255).all()
    whole = next(extract_pseudomasks(
        model, split, INPUTS, classes=CLASSES, config=ExtractConfig(strategy=strategy, refinement="pamr"),
        samples=[9], **WORK,
    ))  # fmt: skip
    assert np.array_equal(one[9].mask, whole.mask)  # every class is a candidate: nothing is left out


def test_a_window_is_all_that_is_read_before_the_first_mask(model, tiny_shards):
    split, read = tiny_shards.split("train"), []
    image = split.image
    split.image = lambda index: read.append(index) or image(index)
    config = ExtractConfig(tokens="candidates", batch_size=2)
    next(read_split(model, split, INPUTS, config=config, **WORK))
    assert read == list(range(16))
    assert together(config) == 16
    assert together(ExtractConfig(batch_size=2)) == 2
