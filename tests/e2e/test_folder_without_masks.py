"""Photographs with image-level labels and no pixel labels at all: the case the project is for."""

from __future__ import annotations

import numpy as np
import pytest

from ctm.data.shards import TRUTH, ShardFolder
from ctm.stages import STAGES
from tests.e2e.conftest import photograph_tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    tree = photograph_tree(tmp_path_factory.mktemp("photographs") / "run")
    assert tree.repro() == list(STAGES)
    return tree


def test_every_image_gets_a_mask_of_its_size_from_its_labels_alone(finished):
    images, masks = (ShardFolder.open(finished.root / "artifacts" / name) for name in ("shards", "pseudomasks"))
    assert sum(len(images.split(name)) for name in ("train", "val")) == 30
    for name in ("train", "val"):
        split, found = images.split(name), masks.split(name)
        assert TRUTH not in split.members
        for index in range(len(split)):
            mask = found.mask(index, "png")
            assert mask.shape == tuple(split.sizes[index])
            assert set(np.unique(mask)) <= set(np.flatnonzero(split.labels[index]))


def test_scores_against_the_missing_truth_are_null(finished):
    metrics = finished.json("metrics/evaluate.json")
    train = metrics["pseudomasks"]["train"]
    for scores in (train, *train["compare"].values(), metrics["pseudomasks"]["val"], metrics["segmenter"]["val"]):
        assert (scores["miou"], scores["pixel_accuracy"], scores["coverage"]) == (None, None, None)
    assert 0 <= metrics["classifier"]["val"]["map"] <= 1, "labels are there, so the classifier has its scores"


def test_the_report_shows_pictures_and_says_that_there_is_no_truth(finished):
    page = (finished.root / "report" / "index.html").read_text(encoding="utf-8")
    assert "no masks to score against" in page
    assert "data:image/" in page
