"""Recipes of `evaluate.compare`, and the parameter section that holds them."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from ctm.errors import ParamsError
from ctm.evaluation.config import EvaluateConfig
from ctm.evaluation.recipes import parse_recipe
from ctm.pseudomasks.config import MapConfig


@pytest.mark.parametrize(
    ("entry", "assignment", "refinement"),
    [
        ("attention", "paper", "none"),
        ("attention+argmax", "argmax", "none"),
        ("relevance", "argmax", "none"),
        ("relevance+affinity", "argmax", "affinity"),
        ("relevance+paper+affinity", "paper", "affinity"),
        ("relevance+affinity+paper", "paper", "affinity"),
    ],
)
def test_a_recipe_gives_its_words_and_natural_choices_for_the_rest(entry: str, assignment: str, refinement: str):
    expected = MapConfig(
        strategy=entry.split("+")[0],
        blocks=3,
        assignment=assignment,
        refinement=refinement,  # type: ignore[arg-type]
    )
    assert parse_recipe(entry, 3) == expected


@pytest.mark.parametrize("strategy", get_args(MapConfig.model_fields["strategy"].annotation))
def test_every_strategy_can_be_named_alone(strategy: str):
    assert parse_recipe(strategy, None).strategy == strategy


@pytest.mark.parametrize(
    "entry", ["", "relevence", "argmax", "attention+random", "attention+", "relevance+paper+argmax"]
)
def test_an_unreadable_recipe_is_refused_with_all_valid_words(entry: str):
    with pytest.raises(ParamsError) as error:
        parse_recipe(entry, None)
    for word in (repr(entry), "random", "spectral", "attention", "relevance", "paper", "argmax", "none", "affinity"):
        assert word in str(error.value)


def test_the_section_refuses_a_misspelt_entry_when_it_is_read():
    with pytest.raises(ValidationError, match=r"cannot read 'relevence'.*attention, relevance"):
        EvaluateConfig(compare=("random", "relevence"))


def test_the_section_takes_baselines_and_recipes():
    assert EvaluateConfig(compare=("random", "spectral", "relevance+affinity")).compare[2] == "relevance+affinity"
