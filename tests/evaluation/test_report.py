"""The report as a file: self-contained, the same each time, safe, and complete without masks."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ctm.data.classes import ClassTable
from ctm.evaluation.confusion import confusion_table
from ctm.evaluation.report import ClassRow, CompareRow, Headline, Panel, ReportData, render_report
from ctm.evaluation.sheet import Sheet, SheetRow
from tests.evaluation.html_page import HtmlPage

RNG = np.random.default_rng(0)
CLASSES = ClassTable(("forest", "water", "urban"))


def panel(**masks: np.ndarray | None) -> Panel:
    image = RNG.integers(0, 255, size=(48, 64, 3), dtype=np.uint8)
    maps = {"forest": RNG.random((6, 8)), "water": np.zeros((6, 8))}
    return Panel("scene_1", "val", image, ("forest", "water"), maps=maps, **masks)


def mask() -> np.ndarray:
    return RNG.choice(np.array([0, 1, 2, 255], dtype=np.uint8), size=(48, 64))


DATA = ReportData(
    title="Demo",
    dataset="demo",
    format="dfc2020",
    classes=CLASSES,
    samples={"train": 1800, "val": 200},
    headline=[
        Headline("Segmenter mIoU", 0.67125, "on val"),
        Headline("Heads kept", 1234, "of all"),
        Headline("Coverage", None, "unknown"),
    ],
    compare=[
        CompareRow("relevance", "relevance", "argmax", "none", 0.86, 0.9261, 1.0, chosen=True),
        CompareRow("random", "random class among those present"),
    ],
    per_class=[ClassRow("forest", 0.5, 0.25, 1.0), ClassRow("water", 0.75, None, None), ClassRow("urban")],
    confusion=confusion_table(np.array([[60, 20, 0], [0, 0, 0], [7, 1, 992]]), CLASSES.names),
    panels=[panel(truth=mask(), pseudo_mask=mask(), prediction=mask())],
    gates=[[1, 0, 1, 1], [0, 0], []],
    classifier_history=[{"epoch": "1", "train_loss": "0.7", "val_map": "0.2", "val_open_heads": "9", "lr": "0.1"}],
    segmenter_history=[
        {"epoch": 1, "train_loss": 0.7, "val_miou": None},
        {"epoch": 2, "train_loss": 0.5, "val_miou": 0.4},
    ],
    configuration={"seed": 3, "model": {"depth": None, "gates": {"hard": True}, "image_size": [64, 64]}},
    notes=["The classifier has not learned."],
    provenance={"ctm": "0.1", "seed": 3, "revision": None},
)


def test_the_page_refers_to_nothing_outside_itself():
    html = render_report(DATA)
    HtmlPage(html).check_alone()
    without_pictures = re.sub(r'src="data:[^"]*"', "", html)
    assert "//" not in without_pictures
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", without_pictures))


def test_every_link_inside_the_page_has_its_target():
    page = HtmlPage(render_report(DATA))
    links = {value[1:] for value in page.values("href", "xlink:href") if value[0] == "#"}
    assert "samples" in links
    assert links <= set(page.values("id"))


def test_every_picture_opens_and_is_described():
    page = HtmlPage(render_report(DATA))
    assert len(page.values("src")) == 6  # image, truth, pseudo-mask, prediction and two class maps
    for source in page.values("src"):
        Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).verify()
    alts = page.values("alt")
    assert len(alts) == 6
    assert "Pseudo-mask of sample scene_1" in alts
    assert "Class map of water in sample scene_1" in alts


def test_figures_have_three_decimals_counts_none_and_missing_ones_a_dash():
    page = HtmlPage(render_report(DATA))
    for text in ("0.671", "1,234", "0.926", "1,800", "–", "3 of 6"):
        assert text in page.text
    assert "None" not in page.text
    assert "nan" not in page.text


def test_means_are_over_the_classes_with_a_value():
    row = render_report(DATA).split('<tr class="mean">')[1].split("</tr>")[0]
    assert re.findall(r"<span>([^<]*)</span>", row) == ["0.625", "0.250", "1.000"]


def test_confusions_are_per_cent_of_the_true_class_and_classes_without_truth_have_dashes():
    table = render_report(DATA).split('<table class="matrix">')[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in table.split("<tr>")[2:]]
    assert rows == [["75", "25", ""], ["–", "–", "–"], ["1", "", "99"]]
    assert table.count('class="right"') == 2


def test_confusions_of_many_classes_are_listed_by_pairs():
    names = tuple(f"class {k}" for k in range(30))
    counts = np.eye(30, dtype=np.int64)
    counts[7, 9] = 3000
    many = replace(DATA, classes=ClassTable(names), panels=[], per_class=[], confusion=confusion_table(counts, names))
    html = render_report(many)
    page = HtmlPage(html)
    assert 'class="matrix"' not in html
    for text in ("class 7", "class 9", "1.000", "3,000", "confusion.json"):
        assert text in page.text


def test_names_are_escaped_wherever_they_stand():
    bad = '<script>alert("x")</script>&'
    classes = ClassTable(("forest", bad))
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    evil = ReportData(
        title=bad,
        dataset=bad,
        format=bad,
        classes=classes,
        headline=[Headline(bad, bad, bad)],
        compare=[CompareRow(bad, bad, bad, bad)],
        per_class=[ClassRow(bad)],
        confusion=confusion_table(np.array([[2, 0], [1, 1]]), classes.names),
        panels=[Panel(bad, bad, image, (bad,), truth=np.ones((8, 8), dtype=np.uint8), maps={bad: np.ones((2, 2))})],
        classifier_history=[{"epoch": 1, f"loss{bad}": 1.0}],
        configuration={bad: {bad: bad}},
        notes=[bad],
        provenance={bad: bad},
    )
    page = HtmlPage(render_report(evil))
    assert "script" not in page.tags
    assert page.text.count(bad) >= 14


def test_without_any_mask_the_page_shows_pictures_and_no_scores():
    bare = replace(
        DATA,
        panels=[panel()],
        headline=[Headline("Segmenter mIoU", None, "on val")],
        compare=[CompareRow("relevance", "relevance")],
        per_class=[ClassRow(name) for name in CLASSES.names],
        confusion=None,
        classifier_history=[],
        segmenter_history=[],
    )
    page = HtmlPage(render_report(bare))
    assert len(page.values("src")) == 3
    assert "Truth" not in page.text
    assert re.search(r"\d\.\d{3}", page.text) is None


def test_a_page_of_nothing_but_a_title_renders():
    page = HtmlPage(render_report(ReportData(title="Empty", dataset="d", format="folder", classes=CLASSES)))
    assert "Empty" in page.text
    assert page.values("src") == []


def test_a_mask_without_a_single_decision_is_called_so():
    empty = np.full((48, 64), 255, dtype=np.uint8)
    page = HtmlPage(render_report(replace(DATA, panels=[panel(pseudo_mask=empty)])))
    assert "Pseudo-mask: nothing painted" in page.text


@pytest.mark.parametrize(
    ("source", "sentence"), [("image", "own image-level labels"), ("predicted", "itself predicts")]
)
def test_the_label_source_is_told(source, sentence):
    assert sentence in render_report(replace(DATA, label_source=source))


def test_notes_stand_before_the_first_figure():
    html = render_report(DATA)
    assert html.index("has not learned") < html.index("0.671")


def test_parameters_are_listed_with_dotted_names():
    page = HtmlPage(render_report(DATA))
    for text in ("gates.hard", "true", "64, 64", "null", "general"):
        assert text in page.text


def test_eight_photographs_with_maps_stay_under_three_megabytes():
    image = RNG.integers(0, 255, size=(240, 320, 3), dtype=np.uint8)  # noise: the worst case for any encoding
    truth = RNG.integers(0, 3, size=(12, 16), dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)
    photo = Image.fromarray(image).resize((80, 60)).resize((640, 480), Image.Resampling.BICUBIC)
    maps = {name: RNG.random((16, 16)) for name in CLASSES.names}
    one = Panel("k", "val", np.asarray(photo), ("forest",), truth, truth, truth, maps)
    assert len(render_report(replace(DATA, panels=[one] * 8))) < 3_000_000


def test_the_losses_with_and_without_masking_share_one_chart():
    rows = [
        {"epoch": 1, "train_bce": 0.4, "train_bce_unmasked": 0.5, "train_patch_bce": 0.6, "val_map": 0.3, "lr": 0.1},
        {"epoch": 2, "train_bce": 0.3, "train_bce_unmasked": 0.5, "train_patch_bce": 0.5, "val_map": 0.4, "lr": 0.1},
    ]
    html = render_report(replace(DATA, classifier_history=rows, segmenter_history=[]))
    assert html.count('class="chart card"') == 2
    loss, scores = html.split('class="chart card"')[1:]
    assert all(word in loss for word in ("train BCE unmasked", "train patch BCE"))
    assert "BCE" not in scores.split("</figure>")[0]


def test_compared_masks_are_shown_in_pictures_and_label_free_scores_where_there_are_any():
    sheet = Sheet(["truth", "cam"], [SheetRow("scene_7", ["forest"], panel().image, [mask(), None])], marked="cam")
    html = render_report(replace(DATA, sheet=sheet, choice="The strategy auto chose cam."))
    HtmlPage(html)
    assert "scene_7" in html
    assert "The strategy auto chose cam." in html
    assert "Label-free" not in html
    scored = replace(DATA, compare=[CompareRow("cam", "cam", label_free=0.125)])
    assert "0.125" in render_report(scored)


def test_an_upper_bound_is_not_said_to_have_learned_from_labels_alone():
    alone = "uses nothing of the true masks"
    assert alone in render_report(DATA)
    html = render_report(replace(DATA, saw_truth=True))
    assert alone not in html
    assert "trained on <b>true masks</b>" in html
    assert '<span class="tag">not trained on</span>' in html
    assert '<span class="tag">used</span>' in render_report(DATA)
