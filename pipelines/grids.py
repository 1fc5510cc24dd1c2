"""The grids of a sweep, every value of a parameter with every value of another, read before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from ctm.params import Params, load_params
from pipelines.errors import PipelineError
from pipelines.experiments import UNCHANGED
from pipelines.table8 import GRID

__all__ = ["check_grids"]

LIST = "[](){}'\""
"""Signs of a value that is more than a plain word, in which a comma need not separate values."""


def check_grids(grids: Sequence[Sequence[str]], settings: Sequence[str], params: Path) -> None:
    """Reads the parameters of every combination of several grids, and refuses two that come to the same.

    Values that are more than plain words are left out, and grids with such values are not compared: only DVC knows
    what will run.

    Args:
        grids: each some texts ``section.name=value,value,…``.
        settings: overrides of all combinations.
        params: the parameter file.

    Raises:
        ParamsError: a name or a value is wrong.
        PipelineError: a text is of another form, a name is given twice, or two runs have the same parameters.
    """
    seen: dict[str, str] = {}
    for grid in grids:
        values = [_singles(text) for text in grid]
        for words, read in _combinations(grid, values, settings, params):
            if not all(values):
                continue
            text = read.model_dump_json()
            if text in seen:
                raise PipelineError(
                    f"the runs {seen[text] or UNCHANGED!r} and {words or UNCHANGED!r} have the same parameters: leave "
                    "one of them out."
                )
            seen[text] = words


def _combinations(
    grid: Sequence[str], values: Sequence[Sequence[str]], settings: Sequence[str], params: Path
) -> Iterator[tuple[str, Params]]:
    """Each combination of a grid in words, and its parameters."""
    names = [text.partition("=")[0] for text in (*grid, *settings)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PipelineError(f"{', '.join(twice)} is given more than once: give all its values in one place.")
    for combination in product(*filter(None, values)):
        yield " ".join(combination), load_params(params, [*settings, *combination])


def _singles(text: str) -> list[str]:
    """The overrides of ``name=value,value``, one for each value; none where the commas may mean something else."""
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise PipelineError(f"{text}: expected section.name=value,value, such as {GRID}.")
    return [] if set(LIST) & set(values) else [f"{name}={value}" for value in values.split(",")]
