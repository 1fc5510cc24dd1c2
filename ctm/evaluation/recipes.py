"""Recipes: the one-word descriptions of how pseudo-masks are made, as `evaluate.compare` lists them."""

from __future__ import annotations

from typing import get_args

from ctm.errors import ParamsError
from ctm.pseudomasks.config import MapConfig

__all__ = ["BASELINES", "parse_recipe"]

BASELINES = ("random", "spectral")
"""Entries of `evaluate.compare` that need no class map."""

NATURAL_ASSIGNMENT = {"attention": "paper", "relevance": "argmax"}
"""The assignment that goes with a strategy named alone: attention is the paper's whole rule, relevance is ours."""


def parse_recipe(entry: str, blocks: int | None) -> MapConfig:
    """Reads a recipe ``strategy[+assignment][+refinement]``, such as ``relevance+affinity``.

    The words may follow the strategy in any order. What is not said is the strategy's natural assignment (attention:
    paper, relevance: argmax) and no refinement.

    Args:
        entry: the recipe.
        blocks: the number of last blocks that relevance and affinity use, or None for all of them.

    Raises:
        ParamsError: if a word is unknown or one choice is made twice.
    """
    strategy, *words = entry.split("+")
    if strategy not in _choices("strategy"):
        raise _unreadable(entry, f"it begins with {strategy!r}")
    chosen = {"strategy": strategy, "assignment": NATURAL_ASSIGNMENT[strategy], "refinement": "none"}
    said: set[str] = set()
    for word in words:
        field = next((name for name in ("assignment", "refinement") if word in _choices(name)), None)
        if field is None:
            raise _unreadable(entry, f"{word!r} is unknown")
        if field in said:
            raise _unreadable(entry, f"it names more than one {field}")
        said.add(field)
        chosen[field] = word
    return MapConfig.model_validate({**chosen, "blocks": blocks})


def _choices(field: str) -> tuple[str, ...]:
    """The words that a field of MapConfig allows."""
    return get_args(MapConfig.model_fields[field].annotation)


def _unreadable(entry: str, reason: str) -> ParamsError:
    """The error for an entry that cannot be read, with all that could."""
    strategies, assignments, refinements = (", ".join(_choices(f)) for f in ("strategy", "assignment", "refinement"))
    return ParamsError(
        f"evaluate.compare: cannot read {entry!r}: {reason}. Write {' or '.join(BASELINES)}, or a recipe "
        f"strategy[+assignment][+refinement] with strategy one of {strategies}; assignment one of {assignments}; "
        f"refinement one of {refinements}."
    )
