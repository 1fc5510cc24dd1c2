"""Colours: that every kind of eye tells those of classes and curves apart, and that all text can be read."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ctm.data.classes import ClassTable
from ctm.evaluation import style
from ctm.evaluation.figures import COLOURS, CURVE_COLOURS, OPACITY, class_colours
from ctm.evaluation.svg import TEXT_COLOUR

EYES = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
"""What is left of linear RGB: Machado, Oliveira and Fernandes 2009, table 1, severity 1."""

XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])

Colours = NDArray[np.float64]


def linear(colours: Colours) -> Colours:
    scaled = np.asarray(colours) / 255
    return np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)


def nearest(colours: Colours, eye: str) -> float:
    """The least distance in CIELAB, as that eye sees them, between any two of the colours (N, 3) of 0..255."""
    xyz = np.clip(linear(colours) @ np.transpose(EYES[eye]), 0, 1) @ XYZ.T / XYZ.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(lab, 2))


def contrast(first: str, second: str) -> float:
    """The contrast ratio of WCAG between two colours written as ``#rrggbb``."""
    light, dark = sorted((float(linear(rgb(text)) @ XYZ[1]) for text in (first, second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def rgb(text: str) -> Colours:
    return np.array(list(bytes.fromhex(text[1:])), dtype=float)


def of_classes(count: int) -> Colours:
    return class_colours(ClassTable(tuple(map(str, range(count)))))


@pytest.mark.parametrize("eye", EYES)
def test_every_eye_tells_the_listed_class_colours_apart(eye):
    with_background = ClassTable(tuple(map(str, range(len(COLOURS) + 1))), background=0)
    assert nearest(class_colours(with_background), eye) > 14
    over_grey = OPACITY * of_classes(12) + (1 - OPACITY) * 128  # as they lie over a photograph
    assert nearest(over_grey, eye) > 10


def test_151_class_colours_only_differ():
    assert 1 < nearest(of_classes(151), "normal") < 5
    assert nearest(of_classes(151), "deuteranopia") < 1


@pytest.mark.parametrize("eye", EYES)
def test_every_eye_tells_the_curves_apart(eye):
    assert nearest(np.array([rgb(colour) for colour in CURVE_COLOURS]), eye) > 10


def test_the_distance_finds_colours_that_a_deuteranope_takes_for_one():
    purple_for_blue = np.array([rgb("#0072b2"), rgb("#7b4fb5")])
    assert nearest(purple_for_blue, "normal") > 30
    assert nearest(purple_for_blue, "deuteranopia") < 3


def themes() -> list[dict[str, str]]:
    """The style's own variables in light and in dark."""
    css = (Path(style.__file__).parent / "style.css").read_text()
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in css.split("@media")[:2])
    assert light.keys() == dark.keys()
    return [light, dark]


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark"])
def test_text_stands_out_from_all_that_it_stands_on(theme):
    for paper in ("page", "card", "faint", "amber-page"):
        assert contrast(theme["ink"], theme[paper]) > 7
        assert contrast(theme["soft"], theme[paper]) > 4.5
    assert contrast(theme["blue"], theme["card"]) > 4.5  # tags
    for bar in ("blue", "orange", "green"):
        assert contrast(theme[bar], theme["card"]) > 3
    for curve in CURVE_COLOURS:
        assert contrast(curve, theme["card"]) > 3


def test_text_of_svg_files_stands_out_from_their_own_white():
    assert contrast(TEXT_COLOUR, "#ffffff") > 4.5
