"""Values become a config, or an error with a line for each mistake: where it is, what it is, what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ctm.errors import ParamsError
from ctm.stage import Config

__all__ = ["guess", "read_config"]

C = TypeVar("C", bound=Config)


def read_config(values: Mapping[str, Any], config: type[C], *, origin: str) -> C:
    """Validates plain values as a config.

    Raises:
        ParamsError: one line for each wrong name or value, with where it is and what would be right.
    """
    try:
        return config.model_validate(values)
    except ValidationError as error:
        found: dict[tuple[str, ...], list[Any]] = {}
        for detail in error.errors():
            found.setdefault(_place(detail["loc"], config), []).append(detail)
        lines = [_explain(place, details, config) for place, details in found.items()]
        raise ParamsError(f"{origin}: " + "\n".join(lines)) from None


def guess(name: str, valid: Iterable[str], config: type[BaseModel] | None = None) -> str:
    """The end of a sentence about an unknown name: what may have been meant, if anything comes close."""
    valid = list(valid)
    inside = [f"{s}.{name}" for s in valid if config and (held := _section(config, s)) and name in held.model_fields]
    close = inside or difflib.get_close_matches(name, valid, n=1)
    return f": did you mean {' or '.join(close)}?" if close else "."


def _place(loc: Iterable[int | str], config: type[BaseModel]) -> tuple[str, ...]:
    """The parameter that an error is about: pydantic goes on with the item, or with the alternative that it tried."""
    place: list[str] = []
    section: type[BaseModel] | None = config
    for part in loc:
        if section is None:
            break
        place.append(str(part))
        section = _section(section, str(part))
    return tuple(place)


def _explain(place: Sequence[str], details: Sequence[Any], config: type[BaseModel]) -> str:
    """One line for all that is wrong with one parameter: where, what, and what to do."""
    name, first = ".".join(place), details[0]
    if first["type"] == "extra_forbidden":
        valid = _names_at(config, place[:-1])
        return f"unknown parameter {name}{guess(place[-1], valid, config)} Parameters there: {', '.join(valid)}."
    if first["type"] == "missing" and first["loc"] == tuple(place):
        return f"parameter {name} is missing: give it a value, or start from a preset with `ctm init PRESET`."
    messages = dict.fromkeys(_message(detail, name) for detail in details)
    found = "" if isinstance(first["input"], dict) else f" (found {first['input']!r})"
    return f"{name or 'parameters'}: {'; or: '.join(messages)}{found}."


def _message(detail: Any, name: str) -> str:
    """What pydantic or a validator of ours says, without frills."""
    return str(detail["msg"]).removeprefix("Value error, ").removeprefix(f"{name}: ").removesuffix(".")


def _section(config: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section that a field holds, or None where it holds a value or does not exist."""
    annotation: Any = config.model_fields[name].annotation if name in config.model_fields else None
    return annotation if _is_config(annotation) else None


def _names_at(config: type[BaseModel], sections: Iterable[str]) -> list[str]:
    """Names of the fields of the section that ``sections`` leads to."""
    for name in sections:
        config = _section(config, name) or config
    return list(config.model_fields)


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
