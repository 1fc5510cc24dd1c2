"""The description of a model's input."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ctm.data.inputs import InputSpec
from ctm.errors import ArtifactError

SPEC = InputSpec(image_size=(32, 48), channels=2, scale=1 / 255, mean=(0.1, 0.2), std=(0.3, 0.4))


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        InputSpec(image_size=(8, 8), channels=3, scale=1e-4),
        replace(SPEC, values="dfc2020", stored_size=(256, 200)),
    ],
)
def test_survives_json(spec: InputSpec) -> None:
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"std": None},
        {"mean": [0.1]},
        {"image_size": 32},
        {"channels": "many"},
        {"values": "dots"},
        {"stored_size": [1]},
    ],
)
def test_damaged_descriptions_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        InputSpec.from_dict(SPEC.to_dict() | change)
    with pytest.raises(ArtifactError, match="'scale'"):
        InputSpec.from_dict({key: value for key, value in SPEC.to_dict().items() if key != "scale"})


def test_a_description_of_an_older_ctm_says_nothing_of_the_stored_images() -> None:
    older = {name: value for name, value in SPEC.to_dict().items() if name not in ("values", "stored_size")}
    assert InputSpec.from_dict(older) == SPEC


def test_deviation_must_be_positive() -> None:
    with pytest.raises(ValueError, match="above 0"):
        InputSpec(image_size=(8, 8), channels=1, scale=1.0, mean=(0.0,), std=(0.0,))
