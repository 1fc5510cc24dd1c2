"""The candidates' tokens are used only where the masks stay within the tolerance, which is measured on the split."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from ctm.data.shards import ShardFolder, Split
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.masks import extract_pseudomasks
from ctm.pseudomasks.token_choice import TokenChoice, choose_tokens
from tests.pseudomasks.test_readings import CLASSES, INPUTS, WORK, model

__all__ = ["model"]


def choose(model: ClassTokenViT, split: Split, **settings: Any) -> TokenChoice:
    config = ExtractConfig(tokens="candidates", batch_size=5, **settings)
    return choose_tokens(model, split, INPUTS, classes=CLASSES, config=config, **WORK)


def difference(model: ClassTokenViT, split: Split, **settings: Any) -> float:
    masks = [
        np.stack(
            [
                found.mask
                for found in extract_pseudomasks(
                    model, split, INPUTS, classes=CLASSES, config=ExtractConfig(tokens=tokens, **settings), **WORK
                )
            ]
        )
        for tokens in ("all", "candidates")
    ]
    return float((masks[0] != masks[1]).mean())


def test_the_difference_is_the_share_of_pixels_of_the_masks_as_they_are_stored(
    model: ClassTokenViT, tiny_shards: ShardFolder
):
    split = tiny_shards.split("train")
    expected = difference(model, split)
    assert 0 < expected < 1
    found = choose(model, split, tokens_tolerance=1.0, confidence=True)
    assert found.difference == pytest.approx(expected)
    assert found.config.tokens == "candidates"
    assert found.config.confidence
    assert found.metrics == {"used": "candidates", "difference": found.difference, "images": 24}


def test_beyond_the_tolerance_all_tokens_are_used_with_a_warning_that_says_how_much(
    model: ClassTokenViT, tiny_shards: ShardFolder, caplog: pytest.LogCaptureFixture
):
    split = tiny_shards.split("val")
    expected = difference(model, split)
    with caplog.at_level(logging.WARNING):
        found = choose(model, split, tokens_tolerance=expected / 2)
    assert found.config.tokens == found.metrics["used"] == "all"
    assert f"alone {expected:.2%} of the pixels of 8 images of val differ" in caplog.text
    assert "all tokens are used" in caplog.text
    assert choose(model, split, tokens_tolerance=expected).config.tokens == "candidates"


def test_where_every_class_is_a_candidate_nothing_differs(model: ClassTokenViT, tiny_shards: ShardFolder):
    split = tiny_shards.split("val")
    split.labels[:] = True
    assert choose(model, split, tokens_tolerance=0.0).config.tokens == "candidates"


def test_a_split_without_images_says_nothing(model: ClassTokenViT, tiny_shards: ShardFolder):
    found = choose(model, tiny_shards.split("val").between(range(0)))
    assert (found.difference, found.images, found.config.tokens) == (None, 0, "candidates")


def test_candidates_must_be_known_beforehand():
    with pytest.raises(ValueError, match="label_source is predicted: set label_source to image, or tokens to all"):
        ExtractConfig(tokens="candidates", label_source="predicted")
