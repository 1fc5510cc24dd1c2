"""What the report shows: which samples, which figures, and which warnings."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.sample import encode_mask
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import ShardFolder
from ctm.evaluation import page
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig

METRICS: dict[str, Any] = {
    "classifier": {"val": {"map": 0.9, "accuracy": 0.95, "chance_map": 0.3, "classes": {"cow": 0.8, "sky": None}}},
    "heads": {"sparsity": 0.25, "kept": 6, "total": 8},
    "pseudomasks": {
        "train": {
            "miou": 0.7,
            "pixel_accuracy": 0.8,
            "coverage": 1.0,
            "classes": {"background": 0.6, "cow": 0.8, "sky": None},
            "empty": 0,
            "compare": {
                "random": {"miou": 0.3, "pixel_accuracy": 0.4, "coverage": 1.0},
                "attention": {"miou": 0.4, "pixel_accuracy": 0.5, "coverage": 0.9},
            },
        },
        "val": {"miou": None, "pixel_accuracy": None, "coverage": None, "classes": {}, "empty": 0},
    },
    "segmenter": {"val": {"miou": 0.65, "classes": {"background": 0.5, "cow": 0.8, "sky": None}}},
}


def metrics(place: str, value: Any) -> dict[str, Any]:
    """The figures with one of them changed."""
    changed = copy.deepcopy(METRICS)
    *path, last = place.split(".")
    inner = changed
    for name in path:
        inner = inner[name]
    inner[last] = value
    return changed


def test_the_headlines_are_the_four_figures_that_matter():
    values = [headline.value for headline in page.headlines(METRICS)]
    assert values == [0.7, 0.65, 0.9, 0.25]
    words = " ".join(headline.explanation for headline in page.headlines(METRICS))
    assert "0.300" in words
    assert "6 of 8" in words


def test_the_headlines_stand_without_masks_and_without_a_train_split():
    changed = metrics("pseudomasks", {})
    changed["classifier"]["val"] = {"map": None, "chance_map": None, "accuracy": None, "classes": {}}
    changed["segmenter"]["val"]["miou"] = None
    assert [headline.value for headline in page.headlines(changed)] == [None, None, None, 0.25]


def test_the_runs_own_masks_lead_the_comparison():
    rows = page.compare_rows(METRICS, ExtractConfig(blocks=3, refinement="affinity"))
    assert [(row.name, row.chosen, row.miou) for row in rows] == [
        ("this run", True, 0.7),
        ("random", False, 0.3),
        ("attention", False, 0.4),
    ]
    assert (rows[0].strategy, rows[0].assignment, rows[0].refinement) == ("relevance", "argmax", "affinity")
    assert (rows[1].assignment, rows[1].refinement) == (None, None)
    assert (rows[2].strategy, rows[2].assignment, rows[2].refinement) == ("attention", "paper", "none")


def test_recipes_that_auto_looked_at_show_the_score_that_it_chose_by():
    changed = metrics("chosen", {"recipe": "relevance", "scores": {"relevance": {"score": 0.8}, "cam": {"score": 0.1}}})
    rows = page.compare_rows(changed, ExtractConfig())
    assert [row.label_free for row in rows] == [0.8, None, None]
    assert "auto chose relevance" in str(page.choice_words(changed))
    assert page.choice_words(METRICS) is None
    tokens = {"tokens_used": {"train": {"used": "candidates", "difference": 0.01, "images": 32}}}
    assert "tokens of each image's labels alone" in str(page.choice_words({**METRICS, **tokens}))
    tokens["tokens_used"]["train"]["used"] = "all"
    assert page.choice_words({**METRICS, **tokens}) is None


def test_a_segmenter_that_saw_truth_is_called_an_upper_bound_first_of_all():
    changed = metrics("segmenter.supervision", "truth")
    assert "upper bound" in page.notes(changed)[0]
    assert "has seen true masks" in page.notes(changed)[0]
    assert "upper bound" in page.headlines(changed)[1].explanation
    assert page.notes(metrics("segmenter.supervision", "pseudomasks")) == []


def test_without_masks_of_train_nothing_is_compared():
    assert page.compare_rows(metrics("pseudomasks", {"val": {}}), ExtractConfig()) == []


def test_every_class_has_a_row_and_the_background_no_precision():
    rows = page.class_rows(METRICS, ClassTable(("background", "cow", "sky"), background=0))
    found = [(row.name, row.pseudo_iou, row.segmenter_iou, row.average_precision) for row in rows]
    assert found == [("background", 0.6, 0.5, None), ("cow", 0.8, 0.8, 0.8), ("sky", None, None, None)]


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("classifier.val.map", 0.9, None),
        ("classifier.val.map", 0.45, None),
        ("classifier.val.map", None, None),
        ("classifier.val.map", 0.43, "hardly learned: its val mAP is 0.430, and a random ranking gets 0.300"),
        ("classifier.val.map", 0.2, "hardly learned"),
        ("segmenter.val.miou", None, "val split has no masks to score against"),
        ("pseudomasks.train.empty", 3, "3 images of train have no candidate class"),
        ("pseudomasks.val.empty", 2, "2 images of val have no candidate class"),
    ],
)
def test_what_a_reader_must_know_is_said_and_nothing_of_a_good_run(place, value, sentence):
    notes = page.notes(metrics(place, value))
    assert len(notes) == (sentence is not None)
    assert (sentence or "") in "".join(notes)


def test_a_baseline_that_beats_the_run_is_pointed_out():
    better = {"miou": 0.9, "pixel_accuracy": 0.9, "coverage": 1.0}
    (note,) = page.notes(metrics("pseudomasks.train.compare.spectral", better))
    assert "0.900" in note
    assert "0.700" in note
    assert page.notes(metrics("pseudomasks.train.compare.spectral", {**better, "miou": 0.5})) == []


def test_the_provenance_counts_parameters_and_names_no_time_or_place():
    models = [nn.Linear(size, 1) for size in (1233, 3, 2)]
    found = page.provenance(7, models=models)
    assert found.pop("ctm")
    assert list(found.values()) == [7, "1,234", "4", "3"]


@pytest.fixture
def pseudomasks(tiny_shards: ShardFolder, tmp_path: Any) -> ShardFolder:
    """Masks of val in another order than the images; the whole mask is the image's number."""
    val = tiny_shards.split("val")
    with ShardWriter(tmp_path / "masks", "val", classes=tiny_shards.classes) as writer:
        for index in reversed(range(8)):
            mask = np.full((32, 32), index, dtype=np.uint8)
            writer.add(val.keys[index], {"png": encode_mask(mask)}, labels=(0,), height=32, width=32)
    found = ShardIndex(kind="masks", classes=tiny_shards.classes.names, background=None, splits={"val": writer.entry})
    write_index(tmp_path / "masks", found)
    return ShardFolder.open(tmp_path / "masks")


def made_from(shards: ShardFolder, model: ClassTokenViT, masks: ShardFolder) -> dict[str, Any]:
    """What pictures are made from."""
    inputs, device = InputSpec((32, 32), 15, 1e-4), torch.device("cpu")
    return {"model": model, "inputs": inputs, "classes": shards.classes, "pseudomasks": masks, "device": device}


def panels(
    shards: ShardFolder, model: ClassTokenViT, masks: ShardFolder, *, split: str = "val", **settings: Any
) -> Any:
    return page.make_panels(
        shards.split(split),
        settings.pop("indices", [1, 6]),
        config=ExtractConfig(**settings),
        predictions={6: np.full((32, 32), 5, dtype=np.uint8)},
        **made_from(shards, model, masks),
    )


def test_a_panel_shows_what_belongs_to_its_sample(tiny_shards, model, pseudomasks):
    val = tiny_shards.split("val")
    found = panels(tiny_shards, model, pseudomasks)
    for index, panel in zip([1, 6], found, strict=True):
        names = [tiny_shards.classes.names[c] for c in np.flatnonzero(val.labels[index])]
        assert (panel.key, panel.split, panel.labels) == (val.keys[index], "val", names)
        assert panel.image.shape == (32, 32, 3)
        assert np.array_equal(panel.truth, val.mask(index, "mask.png"))
        assert (panel.pseudo_mask == index).all()
        assert list(panel.maps) == names
        assert all(heat.shape == (4, 4) for heat in panel.maps.values())
    assert found[0].prediction is None
    assert (found[1].prediction == 5).all()


def test_predicted_candidates_are_shown_where_they_are_painted(tiny_shards, model, pseudomasks):
    (panel,) = panels(tiny_shards, model, pseudomasks, indices=[3], label_source="predicted", threshold=0.0)
    assert list(panel.maps) == list(tiny_shards.classes.names)


def test_missing_truth_and_missing_pseudomasks_leave_gaps(tiny_shards, model, pseudomasks, rewrite):
    blind = rewrite(tiny_shards, {"mask.png": None})
    assert all(panel.truth is None for panel in panels(blind, model, pseudomasks))
    assert all(panel.pseudo_mask is None for panel in panels(tiny_shards, model, pseudomasks, split="train"))


def test_no_sample_gives_no_panel(tiny_shards, model, pseudomasks):
    assert panels(tiny_shards, model, pseudomasks, indices=[]) == []


def sheet(shards: ShardFolder, model: ClassTokenViT, masks: ShardFolder, *entries: str, count: int = 3) -> Any:
    return page.compare_sheet(
        entries,
        shards,
        panels=count,
        config=ExtractConfig(confidence=True),
        **made_from(shards, model, masks),
    )


def test_the_compared_recipes_are_shown_beside_the_runs_own_masks(tiny_shards, model, pipeline):
    masks = ShardFolder.open(pipeline.path("extract_pseudomasks", "pseudomasks"))
    found = sheet(tiny_shards, model, masks, "random", "attention", "relevance")
    assert found.columns == ["truth", "this run", "attention", "relevance"]
    assert found.marked == "this run"
    own, train = masks.split("train"), tiny_shards.split("train")
    assert [row.key for row in found.rows] == [train.keys[0], train.keys[12], train.keys[23]]
    assert np.array_equal(found.rows[1].masks[1], own.mask(own.index_of(train.keys[12]), "png"))
    assert all(mask.shape == (32, 32) for row in found.rows for mask in row.masks)


def test_without_recipes_samples_or_masks_of_train_there_is_no_sheet(tiny_shards, model, pipeline, pseudomasks):
    masks = ShardFolder.open(pipeline.path("extract_pseudomasks", "pseudomasks"))
    assert sheet(tiny_shards, model, masks, "random") is None
    assert sheet(tiny_shards, model, masks, "attention", count=0) is None
    assert sheet(tiny_shards, model, pseudomasks, "attention") is None
