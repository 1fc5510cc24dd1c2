"""All strategies on one classifier: figures, marks, pictures and warnings of the page."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ctm.data.inputs import InputSpec
from ctm.data.shard_index import write_index
from ctm.data.shards import TRUTH, ShardFolder
from ctm.errors import ModelError, ParamsError
from ctm.evaluation.compare import compared_masks
from ctm.evaluation.scoring import score_classifier, score_masks
from ctm.evaluation.strategies import Strategies, compare_strategies, pick_samples, strategies_page
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from tests.evaluation.html_page import HtmlPage

CPU = torch.device("cpu")
INPUTS = InputSpec((32, 32), 15, 1e-4)
RECIPES = ("attention", "relevance", "relevance+affinity")
CONFIG = ExtractConfig(batch_size=5)


def compared(shards: ShardFolder, model: ClassTokenViT, *recipes: str, **settings: Any) -> Strategies:
    given: dict[str, Any] = {"indices": list(range(8)), "panels": 2, "seed": 0, "config": CONFIG, **settings}
    split = shards.split("val")
    return compare_strategies(recipes, model, split, INPUTS, classes=shards.classes, device=CPU, **given)


def page(found: Strategies, shards: ShardFolder, **settings: Any) -> str:
    config = CONFIG.model_copy(update=settings)
    return strategies_page(found, dataset="demo", split="val", classes=shards.classes, config=config, seed=0)


@pytest.fixture(scope="module")
def found(tiny_shards: ShardFolder, model: ClassTokenViT) -> Strategies:
    return compared(tiny_shards, model, *RECIPES)


def test_every_recipe_has_all_figures_and_chance_leads(found):
    assert list(found.recipes) == ["random", *RECIPES]
    for recipe in RECIPES:
        assert all(isinstance(value, float) for value in found.recipes[recipe].values())
        assert found.recipes[recipe]["seconds_per_image"] > 0
    assert found.recipes["random"]["score"] is None
    assert found.best in RECIPES
    assert found.recipes[found.best]["score"] == max(found.recipes[recipe]["score"] for recipe in RECIPES)
    assert found.metrics["images"] == 8


def test_the_classifiers_precision_is_that_of_the_images(found, tiny_shards, model):
    split = tiny_shards.split("val")
    score = score_classifier(model, split, INPUTS, classes=tiny_shards.classes, device=CPU, batch_size=8, workers=0)
    assert found.metrics["classifier"] == {name: pytest.approx(score[name]) for name in ("map", "chance_map")}


def test_the_scores_are_those_of_the_report(found, tiny_shards, model):
    split, classes = tiny_shards.split("val"), tiny_shards.classes
    for entry in ("random", "relevance"):
        settings = {"classes": classes, "config": CONFIG, "seed": 0, "device": CPU, "workers": 0}
        masks = compared_masks(entry, model, split, INPUTS, **settings)
        scores = score_masks(masks, split, classes=classes)
        assert {name: found.recipes[entry][name] for name in ("miou", "coverage")}.items() <= scores.items()


def test_the_sheet_shows_image_truth_and_every_recipe_of_some_samples(found, tiny_shards):
    split = tiny_shards.split("val")
    assert found.sheet.columns == ["truth", *RECIPES]
    assert [row.key for row in found.sheet.rows] == [split.keys[0], split.keys[7]]
    assert np.array_equal(found.sheet.rows[1].masks[0], split.mask(7, TRUTH))


def test_the_page_stands_alone_and_marks_the_choice(found, tiny_shards):
    html = page(found, tiny_shards)
    HtmlPage(html).check_alone()
    assert html.count("data:image/jpeg") == 2 * 5
    assert re.search(
        rf'<tr class="chosen"><th scope="row">{re.escape(found.best)}<span class="tag">best label-free', html
    )
    for recipe in RECIPES:
        assert f"{found.recipes[recipe]['miou']:.3f}" in html
    assert "None" not in html
    assert page(found, tiny_shards) == html


def test_a_classifier_that_has_not_learned_is_called_so(found, tiny_shards):
    chance = replace(found, classifier={"map": 0.31, "chance_map": 0.3})
    assert "hardly learned: its val mAP is 0.310, and a random ranking gets 0.300" in page(chance, tiny_shards)
    good = replace(found, classifier={"map": 0.9, "chance_map": 0.3})
    assert "hardly learned" not in page(good, tiny_shards)


def test_images_of_one_class_each_are_said_to_leave_consistency_out(found, tiny_shards):
    recipes = {name: {**scores, "consistency": None} for name, scores in found.recipes.items()}
    assert "does without it" in page(replace(found, recipes=recipes), tiny_shards)
    assert "does without it" not in page(found, tiny_shards)


def test_without_truth_the_label_free_scores_remain(tiny_shards, model, found, rewrite):
    blind_shards = rewrite(tiny_shards, {TRUTH: None})
    blind = compared(blind_shards, model, *RECIPES)
    assert list(blind.recipes) == list(RECIPES)
    assert blind.best == found.best
    for recipe in RECIPES:
        assert blind.recipes[recipe]["miou"] is None
        assert blind.recipes[recipe]["score"] == found.recipes[recipe]["score"]
    html = page(blind, blind_shards, label_source="predicted")
    assert "mIoU" not in html
    assert "no label of the image is looked at" in html
    assert blind.sheet.columns == list(RECIPES)


def test_a_single_recipe_without_pictures_will_do(tiny_shards, model):
    one = compared(tiny_shards, model, "relevance", panels=0, indices=[2])
    assert one.recipes["relevance"]["agreement"] is None
    assert "Samples" not in page(one, tiny_shards)


def test_samples_are_those_of_a_split_or_of_the_tune_list(tiny_shards, tmp_path):
    split, indices = pick_samples(tiny_shards, "val", 3)
    assert (split.name, indices) == ("val", [0, 4, 7])
    keys = tiny_shards.split("train").keys
    for file in tiny_shards.path.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    (tmp_path / "index.json").unlink()
    write_index(tmp_path, tiny_shards.index.model_copy(update={"tune": (keys[3], keys[9], keys[20])}))
    split, indices = pick_samples(ShardFolder.open(tmp_path), "tune", 2)
    assert (split.name, indices) == ("train", [3, 20])


def test_wrong_recipes_are_refused_before_any_is_tried_and_doubled_ones_are_one(tiny_shards, model):
    with pytest.raises(ModelError, match="cam reads the patch head"):
        compared(tiny_shards, model, "relevance", "cam")
    with pytest.raises(ParamsError, match="cannot read 'relevence'"):
        compared(tiny_shards, model, "relevance", "relevence")
    once = compared(tiny_shards, model, "relevance+affinity", "relevance+argmax+affinity", indices=[0, 1])
    assert list(once.recipes) == ["random", "relevance+affinity"]


@pytest.mark.parametrize("name", ["tune", "test"])
def test_an_unknown_split_is_refused_with_the_known_ones(tiny_shards, name):
    with pytest.raises(ParamsError, match=rf"--split {name}: there is no such split .*train, val\.$"):
        pick_samples(tiny_shards, name, 3)
