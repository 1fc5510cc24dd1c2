"""What the help says of a parameter is what is read: its default, what it may be and what it may not."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ctm.cli import app
from ctm.commands.parameter_help import gate_parameters, stage_parameters
from ctm.errors import ParamsError
from ctm.parameters import Parameter, parameters
from ctm.params import Params, load_preset
from ctm.stage import Stage
from ctm.stages import JOINS, STAGES

ALL = {known.path: known for known in parameters()}

KINDS = {"int": (int, 1), "float": (float, 1e-9)}
"""How a bound is read, and what lies just beside it."""


def accepts(known: Parameter, value: Any) -> bool:
    """Whether the parameter takes a value; what does not go together with others is said by other messages."""
    try:
        load_preset("demo", [f"{known.path}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"])
    except ParamsError as error:
        return f": {known.path}: Input should" not in str(error)
    return True


def test_the_parameters_are_those_of_the_file():
    def leaves(values: dict[str, Any], section: str = "") -> list[str]:
        found: list[str] = []
        for name, value in values.items():
            nested = isinstance(value, dict) and name != "options"
            found += leaves(value, f"{section}{name}.") if nested else [f"{section}{name}"]
        return found

    params = load_preset("demo")
    values = params.model_dump()
    values["evaluate"]["gate"] = params.evaluate.gate.model_dump()
    assert list(ALL) == leaves(values)


@pytest.mark.parametrize("known", ALL.values(), ids=ALL)
def test_every_parameter_has_a_meaning_and_its_real_default(known: Parameter):
    assert known.meaning.endswith((".", ")"))
    place: Any = Params
    for section in filter(None, known.section.split(".")):
        place = place.model_fields[section].annotation
    field = place.model_fields[known.name]
    assert (known.default is None) == field.is_required()
    if known.default is not None:
        given = yaml.safe_load(known.default)
        assert (tuple(given) if isinstance(given, list) else given) == field.default


BOUNDED = {p: known for p, known in ALL.items() if known.type[0] != "[" and {*KINDS} & {*known.type.split()}}


@pytest.mark.parametrize("known", BOUNDED.values(), ids=BOUNDED)
def test_a_number_is_taken_within_its_range_and_not_outside(known: Parameter):
    words = known.type.removesuffix(" or null").split(" or ")[0].replace("2^53", str(2**53)).split()
    at = next(place for place, word in enumerate(words) if word in KINDS)
    read, step = KINDS[words[at]]
    turned = {"<=": ">=", "<": ">"}
    bounds = [(words[at + 1], words[at + 2])] if words[at + 1 :] else []
    bounds += [(turned[words[at - 1]], words[at - 2])] if at else []
    for sign, text in bounds:
        bound = read(text)
        assert accepts(known, bound) == sign.endswith("=")
        assert not accepts(known, bound + step if sign[0] == "<" else bound - step)


CHOICES = {path: known for path, known in ALL.items() if " | " in known.type and "[" not in known.type}


@pytest.mark.parametrize("known", CHOICES.values(), ids=CHOICES)
def test_a_choice_is_of_those_that_are_named(known: Parameter):
    named = known.type.removesuffix(" or null").removesuffix(" or text").split(" | ")
    assert all(accepts(known, yaml.safe_load(value)) for value in named)
    assert accepts(known, "another") == known.type.endswith("or text")


@pytest.mark.parametrize("known", ALL.values(), ids=ALL)
def test_null_is_taken_where_it_is_named(known: Parameter):
    assert accepts(known, None) == known.type.endswith("or null")


@pytest.mark.parametrize("stage", (STAGES | JOINS).values(), ids=STAGES | JOINS)
def test_the_help_of_a_stage_lists_what_it_reads(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "1000")
    text = CliRunner().invoke(app, [stage.command, "--help"]).stdout
    listed = stage_parameters(stage)
    assert {known.path.split(".")[0] for known in listed} == set(stage.config.model_fields)
    assert not any(known in listed for known in gate_parameters())
    for known in listed:
        section = text.partition(f"Parameters in {known.section} " if known.section else "Parameters:")[2]
        row = next(line for line in section.splitlines() if line.split()[1:2] == [known.name])
        assert all(words in row for words in (known.type, known.meaning))
        assert ("[required]" if known.default is None else f"[default: {known.default}]") in row
