"""Other ways to make pseudo-masks from the same checkpoint, and the baselines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.shards import Split
from ctm.evaluation.compare import compared_masks
from ctm.evaluation.scoring import Mask, score_masks
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.masks import extract_pseudomasks

INPUTS = InputSpec((32, 32), 15, 1e-4)


def masks(
    entry: str, model: ClassTokenViT, split: Split, *, classes: ClassTable, seed: int = 0, **settings: Any
) -> list[Mask]:
    config, device = ExtractConfig(batch_size=5, **settings), torch.device("cpu")
    work: dict[str, Any] = {"config": config, "seed": seed, "device": device, "workers": 0}
    return list(compared_masks(entry, model, split, INPUTS, classes=classes, **work))


@pytest.mark.parametrize("entry", ["attention", "relevance+paper"])
def test_a_recipe_gives_the_masks_of_such_an_extraction(model, tiny_shards, entry):
    split = tiny_shards.split("val")
    config = ExtractConfig(strategy=entry.split("+")[0], assignment="paper", fill="ignore")
    expected = extract_pseudomasks(
        model, split, INPUTS, classes=tiny_shards.classes, config=config, device=torch.device("cpu")
    )
    found = masks(entry, model, split, classes=tiny_shards.classes, fill="ignore", assignment="argmax")
    for (index, mask), one in zip(found, expected, strict=True):
        assert index == one.index
        assert np.array_equal(mask, one.mask)


@pytest.mark.parametrize("entry", ["random", "spectral"])
def test_a_baseline_paints_classes_of_the_image_over_all_of_it(model, tiny_shards, entry):
    split = tiny_shards.split("train")
    found = masks(entry, model, split, classes=tiny_shards.classes)
    assert [index for index, _ in found] == list(range(24))
    for index, mask in found:
        assert mask.shape == (32, 32)
        assert set(np.unique(mask)) <= set(np.flatnonzero(split.labels[index]))


@pytest.mark.parametrize("entry", ["random", "spectral"])
def test_a_baseline_depends_on_the_seed_alone(model, tiny_shards, entry):
    def made(seed: int) -> list[bytes]:
        found = masks(entry, model, tiny_shards.split("train"), classes=tiny_shards.classes, seed=seed)
        return [mask.tobytes() for _, mask in found]

    first = made(1)
    torch.rand(3)
    assert made(1) == first
    assert made(2) != first


def test_the_baselines_say_how_hard_the_scenes_are(model, tiny_shards):
    split, classes = tiny_shards.split("train"), tiny_shards.classes
    found = {
        entry: score_masks(masks(entry, model, split, classes=classes), split, classes=classes)["pixel_accuracy"]
        for entry in ("random", "spectral")
    }
    shares = [1 / labels.sum() for labels in split.labels]
    assert found["random"] == pytest.approx(np.mean(shares), abs=0.1)
    assert found["spectral"] > found["random"] + 0.1


def test_a_random_choice_knows_that_a_background_without_token_can_be_anywhere(model, tiny_shards):
    split = tiny_shards.split("val")
    nine = ClassTable(("background", *tiny_shards.classes.names), background=0)
    shifted = masks("random", model, split, classes=nine)
    for index, mask in shifted:
        present = {0} | {int(token) + 1 for token in np.flatnonzero(split.labels[index])}
        assert set(np.unique(mask).tolist()) == present
