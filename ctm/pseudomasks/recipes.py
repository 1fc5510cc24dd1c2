"""Recipes: the one-word descriptions of how pseudo-masks are made, such as ``relevance+affinity``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import TypeVar, get_args

from ctm.errors import ParamsError
from ctm.pseudomasks.map_config import MapConfig

__all__ = [
    "all_recipes",
    "canonical_recipe",
    "needs_patch_head",
    "parse_recipe",
    "recipe_config",
    "recipe_name",
    "without_patch_head",
]

C = TypeVar("C", bound=MapConfig)

PAPER = "attention"
"""The strategy whose natural assignment is the paper's: the two are the paper's whole rule. With others it is ours."""

OF_PATCH_HEAD = ("cam", "fused")
"""Strategies that read the second classifier on the patch tokens."""


def parse_recipe(entry: str) -> dict[str, str]:
    """Reads a recipe ``strategy[+assignment][+refinement...]``, such as ``relevance+affinity+pamr``.

    The words may follow the strategy in any order. What is not said is the strategy's natural assignment (attention:
    paper, all others: argmax) and no refinement.

    Returns:
        The fields ``strategy``, ``assignment`` and ``refinement`` of ``MapConfig``.

    Raises:
        ParamsError: if a word is unknown or a choice is made twice.
    """
    strategy, *words = entry.split("+")
    if strategy not in _choices("strategy"):
        raise _unreadable(entry, f"it begins with {strategy!r}")
    assignments = [word for word in words if word in _choices("assignment")]
    steps = [word for word in words if word not in assignments]
    if len(assignments) > 1:
        raise _unreadable(entry, "it names more than one assignment")
    if unknown := [word for word in steps if word not in _steps()]:
        raise _unreadable(entry, f"{unknown[0]!r} is unknown")
    refinement = "+".join(sorted(steps)) or "none"
    if refinement not in _choices("refinement"):
        raise _unreadable(entry, f"the refinements {' and '.join(steps)} do not go together")
    return {
        "strategy": strategy,
        "assignment": assignments[0] if assignments else _natural(strategy),
        "refinement": refinement,
    }


def recipe_config(entry: str, config: C) -> C:
    """The parameters ``config`` with strategy, assignment and refinement of a recipe; the rest stays as it is."""
    return config.model_copy(update=parse_recipe(entry))


def recipe_name(config: MapConfig) -> str:
    """The shortest recipe that says what ``config`` says; ``parse_recipe`` reads it."""
    words: list[str] = [config.strategy]
    if config.assignment != _natural(config.strategy):
        words.append(config.assignment)
    if config.refinement != "none":
        words.append(config.refinement)
    return "+".join(words)


def canonical_recipe(entry: str) -> str:
    """The shortest name of what a recipe says: ``relevance+pamr+affinity+argmax`` is ``relevance+affinity+pamr``.

    Raises:
        ParamsError: see ``parse_recipe``.
    """
    return recipe_name(MapConfig.model_validate(parse_recipe(entry)))


def all_recipes(*, patch_head: bool, further: Iterable[str] = ()) -> tuple[str, ...]:
    """Every strategy that a classifier with or without a patch head can do, without and with affinity, and more.

    Args:
        patch_head: whether it has one.
        further: recipes that are wanted, too, if it can do them.
    """
    entries = [f"{strategy}{step}" for strategy, step in product(_choices("strategy"), ("", "+affinity"))]
    return tuple(dict.fromkeys(entry for entry in [*entries, *further] if patch_head or not needs_patch_head(entry)))


def needs_patch_head(entry: str) -> bool:
    """Whether a strategy or recipe reads the patch head, which a classifier has with ``model.patch_head`` alone."""
    return entry.split("+")[0] in OF_PATCH_HEAD


def without_patch_head(entries: Iterable[str]) -> str:
    """What to say where recipes read the patch head and the classifier has none."""
    return (
        f"{', '.join(entries)} reads the patch head, which the classifier does not have: set model.patch_head: true "
        "and train it, or choose another strategy, such as relevance."
    )


def _natural(strategy: str) -> str:
    """The assignment that goes with a strategy named alone."""
    return "paper" if strategy == PAPER else "argmax"


def _choices(field: str) -> tuple[str, ...]:
    """The words that a field of MapConfig allows."""
    return get_args(MapConfig.model_fields[field].annotation)


def _steps() -> Iterable[str]:
    """The refinements one by one: the field has a word for some of their combinations as well."""
    return dict.fromkeys(step for choice in _choices("refinement") for step in choice.split("+"))


def _unreadable(entry: str, reason: str) -> ParamsError:
    """The error for an entry that cannot be read, with all that could."""
    strategies, assignments, refinements = (
        ", ".join(words) for words in (_choices("strategy"), _choices("assignment"), _steps())
    )
    return ParamsError(
        f"cannot read {entry!r}: {reason}. A recipe is strategy[+assignment][+refinement...] with strategy one of "
        f"{strategies}; assignment one of {assignments}; refinement one or more of {refinements}."
    )
