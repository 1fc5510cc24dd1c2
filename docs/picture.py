"""Draws the picture of the README from a finished run: what became of its first val images, the good and the bad."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.display import SHADES, font
from ctm.data.shards import ShardFolder
from ctm.errors import CtmError
from ctm.evaluation.figures import class_colours, heat_overlay, mask_overlay, shown, swatches
from ctm.evaluation.page import make_panels
from ctm.evaluation.report import Panel
from ctm.evaluation.scoring import segment
from ctm.evaluation.sheet import shown_classes
from ctm.models.io import load_classifier
from ctm.models.segmenter import load_segmenter
from ctm.params import load_params
from ctm.pseudomasks.config import ExtractConfig

__all__ = ["draw", "main", "panels_of_run"]

OUT = Path("docs/images/demo.png")
ROWS = 3
COLUMNS = ("Image", "Class-token map", "Pseudo-mask", "Prediction", "Truth")

CELL, GAP, SIDE = 256, 14, 236
"""Pixels of a picture, between two, and of the column with the classes; the README shows half of them."""

TITLE, TEXT, SWATCH = 28, 25, 22
PAPER, INK, SOFT = "#FFFFFF", "#1F2933", "#5F6B7A"


def panels_of_run(artifacts: Path, config: ExtractConfig) -> tuple[list[Panel], ClassTable]:
    """The first val images of a run, with all that its stages made of them; nothing is chosen by its looks."""
    device = torch.device("cpu")
    data = ShardFolder.open(artifacts / "shards")
    val, indices = data.split("val"), list(range(ROWS))
    model, classes, inputs = load_classifier(artifacts / "pruned")
    network, _, network_inputs = load_segmenter(artifacts / "segmenter")
    predictions = dict(segment(network, val, network_inputs, samples=indices, device=device, batch_size=1, workers=0))
    panels = make_panels(
        val,
        indices,
        model=model,
        inputs=inputs,
        classes=classes,
        config=config,
        pseudomasks=ShardFolder.open(artifacts / "pseudomasks"),
        predictions=predictions,
        device=device,
    )
    return panels, classes


def draw(panels: Sequence[Panel], classes: ClassTable) -> Image.Image:
    """A row a panel: the classes in it, the image, the map of one class, pseudo-mask, prediction and truth.

    The picture has a white ground of its own, so that it reads the same on light and dark pages.
    """
    width, line = GAP + SIDE + len(COLUMNS) * (CELL + GAP), TEXT + 12
    height = GAP + TITLE + GAP + len(panels) * (CELL + line + GAP)
    picture = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(picture)
    lefts = [GAP + SIDE + place * (CELL + GAP) for place in range(len(COLUMNS))]
    for left, title in zip(lefts, COLUMNS, strict=True):
        pen.text((left, GAP), title, INK, font(TITLE))
    colours, swatch = class_colours(classes), swatches(classes)
    for row, panel in enumerate(panels):
        top = GAP + TITLE + GAP + row * (CELL + line + GAP)
        for place, name in enumerate(shown_classes(classes, (), panel.masks.values())):
            y = top + place * line
            pen.rectangle((GAP, y, GAP + SWATCH, y + SWATCH), swatch[name])
            pen.text((GAP + SWATCH + 10, y - 3), name, INK, font(TEXT))
        for left, cell in zip(lefts, _cells(panel, colours), strict=True):
            picture.paste(Image.fromarray(cell), (left, top))
        pen.text((lefts[1], top + CELL + 4), f"of {_mapped(panel)}", SOFT, font(TEXT))
    return picture


def _mapped(panel: Panel) -> str:
    """The class whose map is shown: the first, in the order of the mask values, that has one."""
    return next(iter(panel.maps))


def _cells(panel: Panel, colours: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The pictures of a row; a mask that the run does not have leaves the grey image."""
    nothing = np.full(panel.image.shape[:2], IGNORE, dtype=np.uint8)
    masks = [nothing if mask is None else mask for mask in (panel.pseudo_mask, panel.prediction, panel.truth)]
    return [
        shown(panel.image, side=CELL),
        heat_overlay(panel.image, panel.maps[_mapped(panel)], side=CELL),
        *(mask_overlay(panel.image, mask, colours, side=CELL) for mask in masks),
    ]


def main() -> None:
    """Draws the picture of the run in this folder; an error that the user can mend is one message and exit code 1."""
    try:
        panels, classes = panels_of_run(Path("artifacts"), load_params(Path("params.yaml")).extract_pseudomasks)
    except CtmError as error:
        sys.exit(f"error: {error}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    draw(panels, classes).point(SHADES * 3).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
