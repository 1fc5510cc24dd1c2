"""Figures by their dotted names, and what is said of a file that holds none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctm.errors import ArtifactError
from ctm.metrics import figure, figure_names, parse_metrics, read_metrics

METRICS: dict[str, Any] = {
    "heads": {"sparsity": 0.25, "kept": 6},
    "segmenter": {"val": {"miou": None, "coverage": 1, "classes": {"cow": 0.5}}},
}


def test_a_figure_is_found_by_its_path():
    assert figure(METRICS, "heads.sparsity") == 0.25
    assert figure(METRICS, "segmenter.val.classes.cow") == 0.5
    assert isinstance(figure(METRICS, "segmenter.val.coverage"), float), "whole numbers are figures too"


@pytest.mark.parametrize("name", ["segmenter.val.miou", "segmenter.val", "segmenter.test.miou", "heads.sparsity.x", ""])
def test_what_is_null_missing_or_a_group_is_no_figure(name: str):
    assert figure(METRICS, name) is None


@pytest.mark.parametrize("text", ["NaN", "Infinity", "true", '"0.5"', "[0.5]"])
def test_only_finite_numbers_are_figures(text: str):
    assert figure(parse_metrics(f'{{"miou": {text}}}', origin="f"), "miou") is None


def test_names_are_those_of_all_figures_also_of_those_without_a_value():
    names = ["miou", "coverage", "classes.cow"]
    assert list(figure_names(METRICS)) == ["heads.sparsity", "heads.kept", *(f"segmenter.val.{name}" for name in names)]


def test_a_file_is_read(tmp_path: Path):
    (tmp_path / "evaluate.json").write_text(json.dumps(METRICS))
    assert read_metrics(tmp_path / "evaluate.json") == METRICS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"evaluate\.json: cannot be read: .*No such file.* that the stage evaluate wrote"),
        (b"\xff", r"evaluate\.json: cannot be read: .* that the stage evaluate wrote"),
        (b"{", r"evaluate\.json: no valid JSON.* that the stage evaluate wrote"),
        (b"[1]", r"evaluate\.json: expected an object, found list.* that the stage evaluate wrote"),
    ],
)
def test_a_file_without_metrics_is_refused_with_what_to_do(tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "evaluate.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        read_metrics(path)
