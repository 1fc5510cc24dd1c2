"""Several runs on one page: the figures, the best of them, what is missing, and nothing from outside."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ctm.errors import ParamsError
from ctm.evaluation.comparison import (
    Row,
    column,
    columns_of,
    compare_runs,
    comparison_page,
    curve_svg,
    listed_runs,
    named_runs,
    unknown_columns,
)
from tests.evaluation.conftest import ctm
from tests.evaluation.html_page import HtmlPage


def metrics(**changed: float | None) -> dict[str, Any]:
    """What the stage evaluate writes; ``miou`` is the segmenter's."""
    figures = {"sparsity": 0.25, "accuracy": 0.9, "map": 0.8, "pixels": 0.7, "masks": 0.6, "miou": 0.5} | changed
    return {
        "classifier": {"val": {"accuracy": figures["accuracy"], "map": figures["map"], "chance_map": 0.1}},
        "heads": {"sparsity": figures["sparsity"], "kept": 6, "total": 8},
        "pseudomasks": {"train": {"pixel_accuracy": figures["pixels"], "miou": figures["masks"], "coverage": 1.0}},
        "segmenter": {"val": {"miou": figures["miou"], "pixel_accuracy": 0.9}},
    }


def run(name: str, **changed: float | None) -> Row:
    """A row of one run."""
    return Row(name, (metrics(**changed),))


EMPTY = Row("d", ({},))


def best(page: HtmlPage) -> dict[str, list[str]]:
    """The names of the runs whose figure is marked, for each column."""
    return {
        column.name: [row[0][0] for row in page.rows[1:] if "best" in row[place][1]]
        for place, column in enumerate(columns_of([]), start=1)
    }


def test_the_table_has_the_columns_of_table_8_and_the_segmenter():
    found = compare_runs([run("a"), run("b", miou=0.75)])
    assert list(found["a"]) == [
        "heads.sparsity",
        "classifier.val.accuracy",
        "classifier.val.map",
        "pseudomasks.train.pixel_accuracy",
        "pseudomasks.train.miou",
        "segmenter.val.miou",
    ]
    assert list(found["a"].values()) == [0.25, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert found["b"]["segmenter.val.miou"] == 0.75


def test_where_settings_were_chosen_on_some_train_images_the_others_are_shown():
    listed = metrics()
    listed["pseudomasks"]["score"] = {"pixel_accuracy": 0.66, "miou": 0.55}
    found = compare_runs([Row("a", (listed,)), run("b")])
    assert list(found["a"].values()) == [0.25, 0.9, 0.8, 0.66, 0.55, 0.5]
    assert found["b"]["pseudomasks.score.miou"] is None
    other = listed | {"heads": {"sparsity": 0.5, "total": 8}}
    assert "pseudo-masks, score mIoU" in str(curve_svg([Row("a", (listed,)), Row("b", (other,))]))


def test_counts_are_not_ranked():
    assert not column("pseudomasks.train.empty").ranked
    assert not column("heads.kept").ranked
    assert column("segmenter.val.classes.cow").ranked


def test_the_metrics_are_valid_json_with_null_for_what_is_missing():
    found = compare_runs([run("a", miou=None), Row("b", ({},))])
    assert json.loads(json.dumps(found, allow_nan=False))["a"]["segmenter.val.miou"] is None
    assert set(found["b"].values()) == {None}


def test_runs_stay_in_their_order_a_row_each():
    page = HtmlPage(comparison_page([run("lambda 0.1"), run("lambda 0"), run("lambda 1")]))
    assert [row[0][0] for row in page.rows] == ["Run", "lambda 0.1", "lambda 0", "lambda 1"]
    assert [text for text, _ in page.rows[1][1:]] == ["0.250", "0.900", "0.800", "0.700", "0.600", "0.500"]


def test_the_best_score_of_a_column_is_marked_and_a_tie_twice():
    runs = [run("a", masks=0.61), run("b", masks=0.61, map=0.81), run("c", masks=0.5, miou=0.4), EMPTY]
    found = best(HtmlPage(comparison_page(runs)))
    assert found["pseudomasks.train.miou"] == ["a", "b"]
    assert found["classifier.val.map"] == ["b"]
    assert found["segmenter.val.miou"] == ["a", "b"]


def test_where_all_are_the_same_none_is_best():
    assert not any(best(HtmlPage(comparison_page([run("a"), run("b"), Row("c", ({},))]))).values())


def test_of_sparsity_none_is_best():
    assert best(HtmlPage(comparison_page([run("a", sparsity=0.0), run("b", sparsity=1.0)])))["heads.sparsity"] == []


def test_a_missing_figure_is_a_dash():
    page = HtmlPage(comparison_page([run("a", miou=None), Row("b", ({},))]))
    assert page.rows[1][-1][0] == "–"
    assert [text for text, _ in page.rows[2][1:]] == ["–"] * len(columns_of([]))
    assert "None" not in comparison_page([Row("b", ({},))])


def test_names_and_titles_are_escaped():
    bad = '<script>alert("x")</script>&'
    page = HtmlPage(comparison_page([run(bad)], title=bad))
    assert "script" not in page.tags
    assert page.rows[1][0][0] == bad


def test_the_page_refers_to_nothing_outside_itself():
    html = comparison_page([run("a")])
    HtmlPage(html).check_alone()
    assert not re.findall(r"url\(|@import|//", html)
    assert "prefers-color-scheme: dark" in html


@pytest.mark.parametrize(
    ("runs", "message"),
    [([], "there is no run to compare"), ([run("b"), run("a"), run("a")], "^a stands for more than one run")],
)
def test_no_run_and_two_of_one_name_are_refused(runs, message):
    for function in (compare_runs, comparison_page):
        with pytest.raises(ParamsError, match=rf"{message}.*--run NAME=FILE"):
            function(runs)


def seeds(name: str, *miou: float | None, **changed: float | None) -> Row:
    """A row of several runs, whose segmenters differ."""
    return Row(name, tuple(metrics(miou=value, **changed) for value in miou))


def test_runs_that_differ_only_in_their_seed_are_one_row_of_mean_and_standard_deviation():
    found = compare_runs([seeds("a", 0.5, 0.6, 0.7), run("b")])
    assert found["a"]["segmenter.val.miou"] == pytest.approx(0.6)
    assert found["a"]["segmenter.val.miou.sd"] == pytest.approx(0.1)
    assert found["a"]["runs"] == 3
    assert "runs" not in found["b"]
    page = HtmlPage(comparison_page([seeds("a", 0.5, 0.6, 0.7), run("b")]))
    assert page.rows[1][0][0] == "a 3 seeds"
    assert page.rows[1][-1][0].strip() == "0.600 ± 0.100"
    assert page.rows[2][-1][0] == "0.500"
    assert best(page)["segmenter.val.miou"] == ["a 3 seeds"]


def test_a_figure_that_some_seeds_lack_says_its_own_number():
    page = HtmlPage(comparison_page([seeds("a", 0.5, None, 0.7), seeds("b", None, None), seeds("c", None, 0.5)]))
    assert [row[-1][0].strip() for row in page.rows[1:]] == ["0.600 ± 0.141 n = 2", "–", "0.500 n = 1"]


def test_any_figure_can_be_a_column():
    entry = metrics() | {"pseudomasks": {"train": {"compare": {"relevance+affinity": {"miou": 0.4}}}}}
    chosen = [column("pseudomasks.train.compare.relevance+affinity.miou"), column("heads.kept")]
    assert [(c.what, c.figure, c.ranked) for c in chosen] == [
        ("Pseudo-masks", "train relevance+affinity mIoU", True),
        ("Heads", "kept", False),
    ]
    rows = [Row("a", (entry,)), run("b")]
    assert compare_runs(rows, columns=chosen) == {
        "a": {chosen[0].name: 0.4, "heads.kept": 6.0},
        "b": {chosen[0].name: None, "heads.kept": 6.0},
    }
    page = HtmlPage(comparison_page(rows, columns=chosen))
    assert [text for text, _ in page.rows[0]] == ["Run", "Pseudo-masks train relevance+affinity mIoU", "Heads kept"]


def test_a_column_that_no_run_has_is_told_and_a_null_figure_is_none_of_them():
    rows = [run("a", miou=None)]
    assert unknown_columns(rows, [*columns_of([]), column("segmenter.val.mean_iou")]) == ["segmenter.val.mean_iou"]


def test_figures_over_sparsity_are_drawn_where_rows_differ_in_it():
    rows = [seeds("a", 0.5, 0.6, sparsity=0.0), seeds("b", 0.5, 0.6, sparsity=0.5, masks=0.55)]
    html = comparison_page(rows)
    assert "fraction of heads removed" in html
    assert "fraction of heads removed" not in comparison_page(rows, curve=False)
    assert "<svg" not in comparison_page([run("a"), run("b")])
    assert "//" not in html
    assert HtmlPage(html).rows[2][0][0] == "b 2 seeds"
    assert comparison_page(rows) == html


def test_a_row_without_figures_is_left_out_of_the_curve():
    rows = [run("a", sparsity=0.0), run("b", sparsity=0.5, map=None), EMPTY]
    assert curve_svg(rows) is not None
    assert curve_svg([run("a", sparsity=0.0), EMPTY]) is None


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The metrics of two runs, the second with a better segmenter."""
    paths = [tmp_path / "a=b.json", tmp_path / "second.json"]
    for path, written in zip(paths, (metrics(), metrics(miou=0.75)), strict=True):
        path.write_text(json.dumps(written))
    return paths


def test_a_name_may_have_an_equals_sign(files):
    (row,) = named_runs([f"gates.beta=0.5={files[1]}"])
    assert row.name == "gates.beta=0.5"
    assert row.runs[0]["segmenter"]["val"]["miou"] == 0.75


@pytest.mark.parametrize("text", ["metrics.json", "=metrics.json", "name=", ""])
def test_a_run_without_name_or_file_is_refused(text):
    with pytest.raises(ParamsError, match=r"--run .*: expected NAME=FILE"):
        named_runs([text])


def test_listed_names_go_with_the_files_in_their_order(files):
    found = listed_runs('["x=0", "x=1"]', files)
    assert [row.name for row in found] == ["x=0", "x=1"]
    assert found[1].runs[0]["segmenter"]["val"]["miou"] == 0.75


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ('["a"]', "1 names for 2 runs"),
        ('["a", 2]', "a JSON list of texts"),
        ('{"a": 1}', "a JSON list of texts"),
        ("a, b", "no valid JSON"),
    ],
)
def test_names_that_do_not_fit_the_files_are_refused(files, names, message):
    with pytest.raises(ParamsError, match=message):
        listed_runs(names, files)


def test_the_command_writes_page_and_figures(files, tmp_path):
    given = ["--run", f"beta=0.5={files[1]}", "--run", f"dense={files[1]}"]
    done = ctm(tmp_path, "compare-runs", *given, "--report", "out/sweep.html", "--metrics", "out/sweep.json")
    assert (done.returncode, done.stderr) == (0, "")
    table = json.loads((tmp_path / "out/sweep.json").read_text())
    assert list(table) == ["beta=0.5", "dense"]
    assert table["dense"]["segmenter.val.miou"] == 0.75
    page = HtmlPage((tmp_path / "out/sweep.html").read_text(encoding="utf-8"))
    assert [row[0][0] for row in page.rows[1:]] == ["beta=0.5", "dense"]


def test_the_command_reads_what_kubeflow_hands_over(files, tmp_path):
    task = {
        "inputs": {"artifacts": {"metrics": {"artifacts": [{"name": "m", "uri": str(file)} for file in files]}}},
        "outputs": {
            "artifacts": {
                "report": {"artifacts": [{"name": "report", "uri": str(tmp_path / "report")}]},
                "table": {"artifacts": [{"name": "table", "uri": str(tmp_path / "table")}]},
            },
            "outputFile": str(tmp_path / "executor_output.json"),
        },
    }
    handed = ["--names", '["x=0", "x=1"]', "--executor-input", json.dumps(task)]
    done = ctm(tmp_path, "compare-runs", *handed, "--report", "report", "--metrics", "table")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "table").read_text())["x=1"]["segmenter.val.miou"] == 0.75
    (shown,) = json.loads((tmp_path / "executor_output.json").read_text())["artifacts"]["table"]["artifacts"]
    assert shown["metadata"]["x=1.segmenter.val.miou"] == 0.75


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    done = ctm(tmp_path, "compare-runs", "--report", "r.html", "--metrics", "r.json")
    assert done.returncode == 1
    assert done.stderr == "error: there is no run to compare: give each run with a name of its own, --run NAME=FILE.\n"
    assert not list(tmp_path.iterdir())
