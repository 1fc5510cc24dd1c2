"""Strategy auto: what it chooses, without truth, and what it leaves out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from ctm.data.inputs import InputSpec
from ctm.data.shards import TRUTH, ShardFolder
from ctm.errors import ModelError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.auto import choose
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.quality import best_recipe
from ctm.stage import Metrics


def chosen(shards: ShardFolder, model: ClassTokenViT, *auto: str, **settings: Any) -> tuple[str, dict[str, Metrics]]:
    config = ExtractConfig(strategy="auto", auto=auto, **{"auto_images": 5, **settings})
    inputs, device = InputSpec((32, 32), 15, 1e-4), torch.device("cpu")
    return choose(model, shards.split("train"), inputs, classes=shards.classes, config=config, device=device)


def test_the_choice_has_the_best_score(tiny_shards, tiny_model):
    recipe, found = chosen(tiny_shards, tiny_model(), "attention+affinity", "relevance", "relevance+pamr", blocks=1)
    assert list(found) == ["attention+affinity", "relevance", "relevance+pamr"]
    assert recipe == best_recipe(found)
    for scores in found.values():
        assert -1 <= scores["consistency"] <= 1
        assert 0 <= scores["agreement"] <= 1
        assert 0 <= scores["separation"] <= 1
        assert scores["score"] == (scores["consistency"] + scores["separation"]) / 2


def test_the_choice_is_the_same_each_time_for_any_batch_size_and_without_truth(tiny_shards, tiny_model, rewrite):
    recipes = ("attention", "relevance+paper", "relevance")
    first = chosen(tiny_shards, tiny_model(), *recipes)
    assert chosen(tiny_shards, tiny_model(), *recipes) == first
    blind, scores = chosen(rewrite(tiny_shards, {TRUTH: None}), tiny_model(), *recipes, batch_size=3)
    assert blind == first[0]
    for recipe in recipes:
        assert scores[recipe] == pytest.approx(first[1][recipe], abs=1e-5)


def test_recipes_that_need_a_patch_head_are_left_out_with_a_word(tiny_shards, tiny_model, caplog):
    with caplog.at_level(logging.INFO, logger="ctm"):
        _, scores = chosen(tiny_shards, tiny_model(), "cam", "fused+affinity", "relevance")
    assert list(scores) == ["relevance"]
    assert "auto leaves out cam, fused+affinity" in caplog.text
    assert "auto chooses relevance" in caplog.text
    with pytest.raises(ModelError, match=r"model.patch_head: true"):
        chosen(tiny_shards, tiny_model(), "cam", "fused")


def test_a_patch_head_is_used_where_there_is_one(tiny_shards, tiny_model):
    assert list(chosen(tiny_shards, tiny_model(patch_head=True), "cam", "fused")[1]) == ["cam", "fused"]


def test_two_names_of_one_recipe_are_one(tiny_shards, tiny_model):
    recipe, scores = chosen(tiny_shards, tiny_model(), "relevance+pamr+affinity", "relevance+argmax+affinity+pamr")
    assert list(scores) == [recipe] == ["relevance+affinity+pamr"]
