"""The picture of the README: which images it shows, what stands in its cells, and that it stays the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctm.evaluation.figures import class_colours, mask_overlay
from docs.picture import CELL, COLUMNS, GAP, draw, panels_of_run


def test_the_first_val_images_are_shown_with_pseudo_mask_prediction_and_truth(pipeline: Any, tiny_shards: Any):
    for stage, port in (("prune_heads", "pruned"), ("extract_pseudomasks", "pseudomasks")):
        pipeline.path(stage, port)
    artifacts = pipeline.path("train_segmenter", "segmenter").parent
    panels, classes = panels_of_run(artifacts, pipeline.params.extract_pseudomasks)
    val = tiny_shards.split("val")
    assert [panel.key for panel in panels] == list(val.keys[:3])
    picture = draw(panels, classes)
    assert picture.tobytes() == draw(*panels_of_run(artifacts, pipeline.params.extract_pseudomasks)).tobytes()

    pixels, colours = np.asarray(picture), class_colours(classes)
    for place, mask in ((2, panels[0].pseudo_mask), (3, panels[0].prediction), (4, val.mask(0, "mask.png"))):
        left = picture.width - (len(COLUMNS) - place) * (CELL + GAP)
        cell = mask_overlay(panels[0].image, mask, colours, side=CELL)  # type: ignore[arg-type]
        rows = [top for top in range(200) if np.array_equal(pixels[top : top + CELL, left : left + CELL], cell)]
        assert len(rows) == 1
