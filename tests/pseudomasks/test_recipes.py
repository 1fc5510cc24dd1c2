"""Recipes of `evaluate.compare` and of strategy auto, and the parameter section that holds the former."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from ctm.errors import ParamsError
from ctm.evaluation.config import EvaluateConfig
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.recipes import all_recipes, needs_patch_head, parse_recipe, recipe_config, recipe_name

STRATEGIES, REFINEMENTS = (get_args(MapConfig.model_fields[name].annotation) for name in ("strategy", "refinement"))


@pytest.mark.parametrize(
    ("entry", "assignment", "refinement"),
    [
        ("attention", "paper", "none"),
        ("attention+argmax", "argmax", "none"),
        *((strategy, "argmax", "none") for strategy in STRATEGIES if strategy != "attention"),
        ("relevance+none", "argmax", "none"),
        ("relevance+affinity", "argmax", "affinity"),
        ("relevance+paper+affinity", "paper", "affinity"),
        ("relevance+affinity+paper", "paper", "affinity"),
        ("fused+affinity+pamr", "argmax", "affinity+pamr"),
        ("gradcam+pamr+paper+affinity", "paper", "affinity+pamr"),
    ],
)
def test_a_recipe_gives_its_words_and_natural_choices_for_the_rest(entry, assignment, refinement):
    expected = {"strategy": entry.split("+")[0], "assignment": assignment, "refinement": refinement}
    assert parse_recipe(entry) == expected
    assert MapConfig.model_validate(expected).model_dump().items() >= expected.items()


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_every_refinement_can_be_named(refinement: str):
    assert parse_recipe(f"relevance+{refinement}")["refinement"] == refinement


@pytest.mark.parametrize(
    "entry",
    ["", "auto", "relevence", "argmax", "attention+random", "attention+"]
    + [f"relevance+{words}" for words in ("paper+argmax", "none+affinity", "pamr+pamr")],
)
def test_an_unreadable_recipe_is_refused_with_all_valid_words(entry):
    with pytest.raises(ParamsError) as error:
        parse_recipe(entry)
    for word in (repr(entry), *STRATEGIES, "paper", "argmax", "none", "affinity", "pamr"):
        assert word in str(error.value)


def test_a_recipe_changes_how_maps_are_read_and_nothing_else():
    config = ExtractConfig(
        strategy="relevance",
        blocks=2,
        rows="own",
        scales=(1.0, 1.5),
        flip=True,
        refinement="affinity",
        label_source="predicted",
        threshold=0.3,
        fill="ignore",
        batch_size=7,
        splits=("val",),
    )
    found = recipe_config("attention", config)
    changed = {"strategy": "attention", "assignment": "paper", "refinement": "none"}
    assert found == config.model_copy(update=changed)
    assert isinstance(found, ExtractConfig)


@pytest.mark.parametrize("entry", ["attention", "attention+argmax", "cam", "relevance+paper+affinity+pamr"])
def test_the_name_of_a_recipes_configuration_is_the_recipe(entry):
    assert recipe_name(recipe_config(entry, MapConfig())) == entry


def test_a_classifier_without_a_patch_head_cannot_do_two_strategies():
    every, possible = all_recipes(patch_head=True), all_recipes(patch_head=False)
    assert {entry.split("+")[0] for entry in every} == set(STRATEGIES)
    assert set(every) - set(possible) == {"cam", "cam+affinity", "fused", "fused+affinity"}
    assert [entry for entry in every if needs_patch_head(entry)] == [e for e in every if e not in possible]


def test_the_section_refuses_a_misspelt_entry_when_it_is_read():
    assert EvaluateConfig(compare=("random", "spectral", "relevance+affinity")).compare[2] == "relevance+affinity"
    with pytest.raises(ValidationError, match=r"cannot read 'relevence'.*attention, relevance.*random, spectral"):
        EvaluateConfig(compare=("random", "relevence"))
