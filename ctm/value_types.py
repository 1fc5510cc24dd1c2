"""What values a parameter takes, in words and signs, from its JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["value_type"]

TYPES = {
    "integer": "int",
    "number": "float",
    "boolean": "true | false",
    "string": "text",
    "object": "mapping",
    "null": "null",
}
SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def value_type(schema: Mapping[str, Any]) -> str:
    """The values that a schema allows: ``0 <= float < 1``, ``none | horizontal``, ``[int >= 1, ...] or null``."""
    if "anyOf" in schema:
        return " or ".join(map(value_type, schema["anyOf"]))
    if choices := schema.get("enum"):
        return " | ".join(map(str, choices))
    if items := schema.get("prefixItems"):
        return f"[{', '.join(map(value_type, items))}]"
    if schema["type"] == "array":
        return f"[{value_type(schema['items'])}, ...]" + (", not empty" if schema.get("minItems") else "")
    if schema["type"] == "string" and schema.get("minLength"):
        return "text, not empty"
    return _interval(schema)


def _interval(schema: Mapping[str, Any]) -> str:
    """``int >= 1``, ``0 <= float < 1``."""
    kind = TYPES[schema["type"]]
    bounds = {SIGNS[key]: f"{value:g}" if value < 2**53 else "2^53" for key, value in schema.items() if key in SIGNS}
    low, high = ([(sign, bound) for sign, bound in bounds.items() if sign[0] == first] for first in "><")
    if low and high:
        return f"{low[0][1]} {low[0][0].replace('>', '<')} {kind} {high[0][0]} {high[0][1]}"
    return " ".join((kind, *(f"{sign} {bound}" for sign, bound in low + high)))
