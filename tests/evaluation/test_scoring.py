"""Scores of a split: what is streamed through the loaders is what single images give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset
from ctm.data.shards import TRUTH, ShardFolder
from ctm.evaluation.labels import LabelScore
from ctm.evaluation.scoring import Mask, count_masks, score_classifier, score_masks, segment
from ctm.models.class_token_vit import ClassTokenViT

CPU = torch.device("cpu")
INPUTS = InputSpec((24, 16), 15, 1e-4)


def truths(shards: ShardFolder, change: int = 0) -> Iterator[Mask]:
    split = shards.split("val")
    for index in reversed(range(len(split))):
        mask = split.mask(index, TRUTH).copy()
        mask[:16] = (mask[:16] + change) % 8
        yield index, mask


@pytest.mark.parametrize(("change", "accuracy"), [(0, 1.0), (1, 0.5)])
def test_the_truth_scores_one_and_a_wrong_upper_half_costs_half_of_the_pixels(tiny_shards, change, accuracy):
    counts = count_masks(truths(tiny_shards, change), tiny_shards.split("val"), classes=tiny_shards.classes)
    scores = score_masks(truths(tiny_shards, change), tiny_shards.split("val"), classes=tiny_shards.classes)
    assert counts.matrix.sum() == 8 * 32 * 32
    assert counts.compute() == scores
    assert (scores["pixel_accuracy"], scores["coverage"]) == (accuracy, 1)
    assert scores["miou"] == 1 if change == 0 else 0 < scores["miou"] < 0.5


def test_samples_without_truth_are_passed_over(tiny_shards, rewrite):
    blind = rewrite(tiny_shards, {TRUTH: None}).split("val")
    scores = score_masks(truths(tiny_shards), blind, classes=tiny_shards.classes)
    assert (scores["miou"], scores["pixel_accuracy"], scores["coverage"]) == (None, None, None)


class Bands(nn.Module):
    """Logits of a segmenter that needs no weights: three bands of the image at half its size."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(images[:, :3], 2)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_segmenters_masks_have_the_stored_size_and_come_in_order(tiny_shards, batch_size):
    split = tiny_shards.split("val")
    masks = list(segment(Bands(), split, INPUTS, device=CPU, batch_size=batch_size, workers=0))
    assert [index for index, _ in masks] == list(range(8))
    for index, mask in masks:
        assert mask.shape == (32, 32)
        assert mask.dtype == np.uint8
        logits = Bands()(ShardDataset(split, INPUTS)[index]["image"][None])
        native = nn.functional.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=False)
        assert np.array_equal(mask, native.argmax(dim=1)[0].numpy())
    assert len({mask.tobytes() for _, mask in masks}) == 8


def test_a_segmenters_masks_are_streamed(tiny_shards):
    class Counting(Bands):
        batches = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.batches += 1
            return super().forward(images)

    model = Counting()
    masks = segment(model, tiny_shards.split("val"), INPUTS, device=CPU, batch_size=2, workers=0)
    next(masks)
    assert model.batches == 1


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_classifiers_scores_are_those_of_its_logits(tiny_params, tiny_shards, batch_size):
    torch.manual_seed(0)
    model = ClassTokenViT(tiny_params.model, tiny_params.gates, num_classes=8, in_channels=15).train()
    inputs, split = InputSpec((32, 32), 15, 1e-4), tiny_shards.split("val")
    found = score_classifier(
        model, split, inputs, classes=tiny_shards.classes, device=CPU, batch_size=batch_size, workers=0
    )
    assert not model.training
    score = LabelScore(tiny_shards.classes)
    for item in (ShardDataset(split, inputs)[index] for index in range(len(split))):
        with torch.no_grad():
            score.update(model(item["image"][None]), item["labels"][None])
    assert found == score.compute()
