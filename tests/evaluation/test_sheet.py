"""The sheet of pictures: columns, gaps, and the classes that it shows."""

from __future__ import annotations

import numpy as np

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.shards import TRUTH
from ctm.evaluation.figures import class_colours
from ctm.evaluation.sheet import Sheet, SheetRow, make_sheet, sheet_legend, sheet_pictures

CLASSES = ClassTable(("forest", "water", "urban"))
IMAGE = np.full((30, 40, 3), 90, dtype=np.uint8)


def test_truth_comes_first_where_there_is_any(tiny_shards, rewrite):
    masks = {"relevance": {6: np.zeros((32, 32), dtype=np.uint8)}}
    with_truth = make_sheet(tiny_shards.split("val"), [1, 6], masks, classes=tiny_shards.classes)
    assert with_truth.columns == ["truth", "relevance"]
    assert with_truth.rows[0].masks[1] is None
    assert (with_truth.rows[1].masks[1] == 0).all()
    blind = rewrite(tiny_shards, {TRUTH: None}).split("val")
    assert make_sheet(blind, [1, 6], masks, classes=tiny_shards.classes).columns == ["relevance"]


def test_a_gap_has_no_picture_and_masks_have_one():
    mask = np.zeros((30, 40), dtype=np.uint8)
    sheet = Sheet(["truth", "cam"], [SheetRow("a", ["forest"], IMAGE, [None, mask])])
    (row,) = sheet_pictures(sheet, class_colours(CLASSES))
    assert row["image"].startswith("data:image/jpeg")
    assert [name for name, _ in row["masks"]] == ["truth", "cam"]
    assert [source is None for _, source in row["masks"]] == [True, False]


def test_the_key_of_colours_names_what_is_shown_and_nothing_else():
    mask = np.array([[2, IGNORE]], dtype=np.uint8)
    sheet = Sheet(["cam"], [SheetRow("a", ["forest"], IMAGE[:1, :2], [mask])])
    assert sheet_legend(sheet, CLASSES) == ["forest", "urban"]
