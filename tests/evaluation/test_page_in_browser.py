"""The HTML pages in a real browser, from disk and without a network: that all of them is there and can be read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from ctm.data.classes import ClassTable
from ctm.data.shards import ShardFolder
from ctm.evaluation.comparison import comparison_page
from ctm.evaluation.report import ClassRow, Panel, render_report
from ctm.models.class_token_vit import ClassTokenViT
from tests.evaluation import test_comparison, test_report, test_strategies

REQUIRED = "CTM_REQUIRE_BROWSER"
"""CI sets it: then nothing here may be skipped."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"desktop": 1280, "phone": 390, "zoomed to 400 %": 320}
PAGES = ("report", "report of many classes", "strategies", "runs")

OVERFLOWS = """() => {
  const width = document.documentElement.clientWidth, found = [];
  const style = e => getComputedStyle(e).overflowX;
  const scrolls = e => e && (/auto|scroll/.test(style(e)) || scrolls(e.parentElement));
  if (document.documentElement.scrollWidth > width) found.push("the page scrolls sideways");
  for (const e of document.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect(), name = `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`;
    const outside = box.width && (box.right > width + 1 || box.left < -1);
    if (outside && !scrolls(e.parentElement)) found.push(`sticks out: ${name}`);
    if (/hidden|clip/.test(style(e)) && e.scrollWidth > e.clientWidth + 1) found.push(`cut off: ${name}`);
  }
  return found;
}"""

CONTENT = """async () => {
  const pictures = [...document.images];
  pictures.forEach(i => i.loading = "eager");
  await Promise.all(pictures.map(i => i.decode().catch(() => null)));
  const all = (selector, e = document) => [...e.querySelectorAll(selector)];
  return {
    broken: pictures.filter(i => !i.naturalWidth).map(i => i.alt),
    undescribed: pictures.filter(i => !i.alt.trim()).length,
    headings: all("h1, h2, h3, h4, h5, h6").map(h => Number(h.tagName[1])),
    headless: all("table").filter(t => !all("thead th[scope=col]", t).length
      || all("tbody tr", t).some(r => all("th[scope=row]", r).length != 1)).length,
  };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium or Chrome."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        message = f"there is none of {', '.join(BROWSERS)} on PATH"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{message}, and {REQUIRED}=1 asks for it")
        pytest.skip(message)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(
    pipeline: Any, tiny_shards: ShardFolder, model: ClassTokenViT, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A file of each kind of page: the report of a real run, one with all that is long, and both comparisons."""
    found = test_strategies.compared(tiny_shards, model, *test_strategies.RECIPES)
    runs = [
        test_comparison.seeds("train_classifier.pruning_weight=0 model.register_token=false", 0.5, 0.6, sparsity=0.0),
        test_comparison.seeds("dense", 0.5, None, sparsity=0.5),
    ]
    texts = {
        "report of many classes": many_classes(),
        "strategies": test_strategies.page(found, tiny_shards),
        "runs": comparison_page(runs),
    }
    folder = tmp_path_factory.mktemp("pages")
    files = {name: folder / f"{name}.html" for name in texts}
    for name, text in texts.items():
        files[name].write_text(text, encoding="utf-8")
    return {"report": pipeline.path("evaluate", "report"), **files}


def many_classes() -> str:
    """A report of 151 classes, some of whose names are long, as are the sample's key and the parameters."""
    names = tuple(f"{k} {('sky', 'traffic light', 'W' * 60)[k % 3]}" for k in range(151))
    image = np.zeros((64, 48, 3), dtype=np.uint8)
    mask = np.arange(64 * 48, dtype=np.uint8).reshape(64, 48) % 151
    panel = Panel("x" * 90, "val", image, names[:9], mask, mask, mask, {name: np.eye(4) for name in names[:9]})
    return render_report(
        replace(
            test_report.DATA,
            classes=ClassTable(names),
            per_class=[ClassRow(name, 0.5, 0.25, 1.0) for name in names],
            confusion=None,
            panels=[panel],
            configuration={"extract_pseudomasks": {"auto": ["relevance+affinity+pamr"] * 3, "s" * 50: "t" * 90}},
        )
    )


def problems(page: Page, file: Path) -> list[str]:
    """Opens a page and says what is wrong with it."""
    found: list[str] = []
    page.on("request", lambda request: found.append(f"asks for {request.url}") if _leaves(request.url, file) else None)
    page.on("console", lambda message: found.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.append(f"console: {error}"))
    page.goto(file.as_uri())
    content = page.evaluate(CONTENT)
    found += [f"does not load: {alt}" for alt in content["broken"]]
    if content["undescribed"]:
        found.append(f"{content['undescribed']} pictures without alt text")
    levels = content["headings"]
    if levels[:1] != [1] or levels.count(1) != 1 or any(after > before + 1 for before, after in pairwise(levels)):
        found.append(f"headings out of order: {levels}")
    if content["headless"]:
        found.append(f"{content['headless']} tables without headers")
    return found + page.evaluate(OVERFLOWS)


def _leaves(url: str, file: Path) -> bool:
    return not url.startswith("data:") and url != file.as_uri()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an empty page of a width without a network; all are closed in the end."""
    contexts = []

    def new(width: int = 1280, **settings: Any) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, offline=True, **settings))
        return contexts[-1].new_page()

    yield new
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_at_every_width_in_light_and_dark(name, width, scheme, pages, opened, tmp_path):
    page = opened(width, color_scheme=scheme)
    assert problems(page, pages[name]) == []
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_every_link_and_every_table_that_scrolls_and_shows_where_it_is(name, pages, opened):
    page = opened(390)
    page.goto(pages[name].as_uri())
    wanted = page.evaluate("[...document.querySelectorAll('a, .scroll')].map(e => e.outerHTML.slice(0, 80))")
    reached = []
    for _ in wanted:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML.slice(0, 80)"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == wanted


def test_colours_that_mean_something_stay_where_the_reader_forces_colours(pages, opened):
    page = opened(forced_colors="active")
    page.goto(pages["report"].as_uri())
    chips = page.evaluate("[...document.querySelectorAll('.chip i')].map(e => getComputedStyle(e).backgroundColor)")
    assert len(set(chips)) == 8
    kept = page.evaluate("[...document.querySelectorAll('.gates i')].map(e => getComputedStyle(e).backgroundColor)")
    assert len(set(kept)) == 2


GOOD = "<h1>A</h1><h2>B</h2><table><thead><tr><th scope=col>a<tbody><tr><th scope=row>b</table>"


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        pytest.param(GOOD, None, id="nothing wrong"),
        (f"{GOOD}<div style='overflow-x: auto'><p style='width: 3000px'>wide</p></div>", None),
        (f"{GOOD}<p style='width: 3000px'>wide</p>", "the page scrolls sideways"),
        (f"<body style='overflow-x: hidden'>{GOOD}<p style='width: 3000px'>wide</p>", "sticks out: P"),
        (f"{GOOD}<p style='width: 20px; overflow: hidden'>Disestablishment</p>", "cut off: P"),
        (f"{GOOD}<img src='data:image/png;base64,AAAA' alt='torn'>", "does not load: torn"),
        (f"{GOOD}<img src='data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA='>", "1 pictures without alt text"),
        (f"{GOOD}<h4>C</h4>", "headings out of order"),
        (f"{GOOD}<table><tr><td>1</table>", "1 tables without headers"),
        (f"{GOOD}<script>console.error('no')</script>", "console: no"),
        (f"{GOOD}<script src='https://example.org/a.js'></script>", "asks for https://example.org/a.js"),
    ],
)
def test_every_check_can_fail(html, problem, opened, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html>{html}")
    found = problems(opened(), file)
    assert found == [] if problem is None else any(text.startswith(problem) for text in found)
