"""The command line of the bench shows the parts, sizes and device that are asked for."""

from __future__ import annotations

import pytest
import torch

from bench.__main__ import lines, parser, shown_at
from bench.parts import PAPER, SIZED, UNSIZED
from bench.row import Row
from bench.sizes import SIZES, Setting
from ctm.params import load_preset


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Setting]]:
    """Every part says only that it was asked, and for what."""
    calls: list[tuple[str, Setting]] = []

    def record(part: str):
        def rows(setting: Setting):
            calls.append((part, setting))
            yield part

        return rows

    for part, (_, size) in SIZED.items():
        monkeypatch.setitem(SIZED, part, (record(part), size))
    for part in UNSIZED:
        monkeypatch.setitem(UNSIZED, part, lambda part=part: iter([part]))
    return calls


def asked(*words: str) -> list[Row | str]:
    return list(lines(parser().parse_args([*words])))


def test_on_the_cpu_each_part_is_shown_once_at_its_own_size(seen):
    shown = asked("--device", "cpu")
    assert [line for line in shown if line in {*SIZED, *UNSIZED}] == [*SIZED, *UNSIZED]
    assert [setting.name for _, setting in seen] == [size for _, size in SIZED.values()]
    assert {(setting.precision, setting.compiled) for _, setting in seen} == {("fp32", False)}


def test_a_gpu_is_shown_the_sizes_of_the_paper():
    assert {size for part in SIZED for size in shown_at(part, torch.device("cuda"))} == set(PAPER) <= set(SIZES)


def test_parts_sizes_and_precision_are_those_asked_for(seen):
    asked("training", "--size", "dfc2020", "--size", "ade20k", "--device", "cpu", "--precision", "bf16", "--compile")
    assert [(part, setting.name) for part, setting in seen] == [("training", "dfc2020"), ("training", "ade20k")]
    assert {(setting.precision, setting.compiled) for _, setting in seen} == {("bf16", True)}
    assert seen[0][1].sizes == SIZES["dfc2020"]


def test_an_unknown_part_is_refused_with_the_names_of_all(seen):
    with pytest.raises(SystemExit, match="no part 'masks'; parts: models, training, extraction, classes, evaluation"):
        asked("masks")


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_sizes_are_those_of_the_presets(name):
    sizes, params = SIZES[name], load_preset(name)
    tokens = len(params.dataset.classes) - (params.dataset.background is not None)
    assert (sizes.channels, sizes.image, sizes.classes) == (params.dataset.channels, params.model.size, tokens)
    assert (sizes.patch, sizes.heads) == (params.model.patch_size, params.model.num_heads)
    assert sizes.gpu_batch == params.train_classifier.batch_size


@pytest.mark.parametrize(("name", "tokens"), [("dfc2020", 265), ("endotect", 1304), ("ade20k", 412)])
def test_sequences_are_as_long_as_in_the_paper(name, tokens):
    assert SIZES[name].tokens == tokens
