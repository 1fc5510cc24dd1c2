"""The candidates' tokens are used only where the masks stay within the tolerance, which is measured on the split."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from ctm.data.shards import Split
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.masks import extract_pseudomasks
from ctm.pseudomasks.token_choice import choose_tokens
from ctm.stage import Metrics
from tests.pseudomasks.test_readings import CLASSES, INPUTS, WORK


def choose(model: ClassTokenViT, split: Split, **settings: Any) -> tuple[ExtractConfig, Metrics]:
    config = ExtractConfig(tokens="candidates", batch_size=5, **settings)
    return choose_tokens(model, split, INPUTS, classes=CLASSES, config=config, **WORK)


def difference(model: ClassTokenViT, split: Split) -> float:
    """Share of the pixels that differ between the two ways."""
    masks = []
    for tokens in ("all", "candidates"):
        found = extract_pseudomasks(model, split, INPUTS, classes=CLASSES, config=ExtractConfig(tokens=tokens), **WORK)
        masks.append(np.stack([one.mask for one in found]))
    return float((masks[0] != masks[1]).mean())


def test_the_difference_is_the_share_of_pixels_of_the_masks_as_they_are_stored(model, tiny_shards):
    split = tiny_shards.split("train")
    expected = difference(model, split)
    assert 0 < expected < 1
    config, why = choose(model, split, tokens_tolerance=1.0, confidence=True)
    assert (config.tokens, config.confidence) == ("candidates", True)
    assert why == {"used": "candidates", "difference": pytest.approx(expected), "images": 24}


def test_beyond_the_tolerance_all_tokens_are_used_with_a_warning_that_says_how_much(model, tiny_shards, caplog):
    split = tiny_shards.split("val")
    expected = difference(model, split)
    with caplog.at_level(logging.WARNING):
        config, why = choose(model, split, tokens_tolerance=expected / 2)
    assert config.tokens == why["used"] == "all"
    assert f"alone {expected:.2%} of the pixels of 8 images of val differ" in caplog.text
    assert "all tokens are used" in caplog.text
    assert choose(model, split, tokens_tolerance=expected)[0].tokens == "candidates"


def test_where_every_class_is_a_candidate_nothing_differs(model, tiny_shards):
    split = tiny_shards.split("val")
    split.labels[:] = True
    assert choose(model, split, tokens_tolerance=0.0)[0].tokens == "candidates"


def test_a_split_without_images_says_nothing(model, tiny_shards):
    config, why = choose(model, tiny_shards.split("val").between(range(0)))
    assert (config.tokens, why) == ("candidates", {"used": "candidates", "difference": None, "images": 0})


def test_candidates_must_be_known_beforehand():
    with pytest.raises(ValueError, match="label_source is predicted: set label_source to image, or tokens to all"):
        ExtractConfig(tokens="candidates", label_source="predicted")
