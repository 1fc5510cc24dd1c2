"""The parameters of params.yaml one by one: name, type with range, default and meaning, as their fields say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from ctm.params import Params, yaml_value
from ctm.value_types import value_type

__all__ = ["Parameter", "parameters"]


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        section: where it stands, such as ``train_classifier.augment``; empty for those outside of all sections.
        name: within its section.
        type: the values that it takes, such as ``0 <= float < 1`` or ``none | horizontal | dihedral``.
        default: as in params.yaml; None where a value must be given.
        meaning: the docstring of its field.
        of_stages: whether stages read it.
    """

    section: str
    name: str
    type: str
    default: str | None
    meaning: str
    of_stages: bool

    @property
    def path(self) -> str:
        """Its name for ``--set``."""
        return f"{self.section}.{self.name}" if self.section else self.name


def parameters(config: type[BaseModel] = Params, section: str = "", *, of_stages: bool = True) -> Iterator[Parameter]:
    """All parameters of a config and of the sections in it, in the order of params.yaml."""
    schemas = config.model_json_schema()["properties"]
    for name, field in config.model_fields.items():
        read = of_stages and not field.exclude
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from parameters(field.annotation, f"{section}.{name}" if section else name, of_stages=read)
        else:
            default = yaml_value(schemas[name]["default"]) if "default" in schemas[name] else None
            meaning = " ".join((field.description or "").split())
            yield Parameter(section, name, value_type(schemas[name]), default, meaning, read)
