"""Extraction over a split: the same bytes for any batch size, streamed, in the split's order, within the candidates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset
from ctm.data.shards import Split
from ctm.errors import ArtifactError, ParamsError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.assign import assign_argmax
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.masks import PseudoMask, check_fill, extract_pseudomasks
from ctm.pseudomasks.pamr import refine_pixels
from tests.pseudomasks.conftest import large_weights

NAMES = tuple("abcdefgh")
PLAIN = ClassTable(NAMES)
WITH_BACKGROUND = ClassTable(NAMES, background=2)


def extract(
    model: ClassTokenViT, split: Split, *, classes: ClassTable = PLAIN, **settings: Any
) -> Iterator[PseudoMask]:
    inputs = InputSpec((24, 32), 15, 1e-4)
    config = ExtractConfig(**settings)
    return extract_pseudomasks(model, split, inputs, classes=classes, config=config, device=torch.device("cpu"))


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "relevance"},
        {"strategy": "relevance", "blocks": 1, "refinement": "affinity"},
        {"strategy": "attention", "assignment": "paper"},
        {"strategy": "relevance", "refinement": "affinity+pamr", "confidence": True},
        {"strategy": "relevance", "label_source": "predicted", "assignment": "paper", "fill": "ignore"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_masks_do_not_depend_on_the_batch_size(model, tiny_shards, settings):
    split = tiny_shards.split("val")
    one, five = (list(extract(model, split, batch_size=size, **settings)) for size in (1, 5))
    assert [found.index for found in one] == [found.index for found in five] == list(range(8))
    for first, second in zip(one, five, strict=True):
        assert first.mask.tobytes() == second.mask.tobytes()
        assert (first.confidence is None) == ("confidence" not in settings)
        if first.confidence is not None:
            assert np.abs(first.confidence.astype(int) - second.confidence.astype(int)).max() <= 1
        np.testing.assert_allclose(first.logits, second.logits, rtol=1e-4, atol=1e-5)
        assert first.candidates.tolist() == second.candidates.tolist()
        np.testing.assert_allclose(first.maps, second.maps, rtol=1e-4, atol=1e-6)


def test_masks_have_the_images_size_and_only_classes_of_its_labels(model, tiny_shards):
    split = tiny_shards.split("val")
    painted = 0
    for found in extract(model, split):
        assert found.mask.shape == (32, 32)  # the images', not the 24 × 32 of the model
        assert found.mask.dtype == np.uint8
        assert found.maps.shape == (8, 3, 4)
        assert np.array_equal(found.candidates, split.labels[found.index])
        assert set(np.unique(found.mask)) <= set(np.flatnonzero(found.candidates))
        assert not found.maps[~found.candidates].any()
        painted += len(np.unique(found.mask))
    assert painted > 8


def test_predicted_candidates_come_from_the_classifier_alone(model, tiny_shards):
    split = tiny_shards.split("val")
    for threshold in (0.3, 0.7):
        found = list(extract(model, split, label_source="predicted", threshold=threshold))
        for one in found:
            image = torch.from_numpy(split.image(one.index) * np.float32(1e-4))[None]
            small = torch.nn.functional.interpolate(image, size=(24, 32), mode="bilinear", antialias=True)
            with torch.no_grad():
                probabilities = model(small)[0].sigmoid().numpy()
            clear = np.abs(probabilities - threshold) > 0.05  # the resizing here is only nearly that of the loader
            assert np.array_equal(one.candidates[clear], (probabilities > threshold)[clear])
    split.labels[:] = False
    again = list(extract(model, split, label_source="predicted", threshold=0.7))
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("refinement", ["none", "pamr"])
def test_an_image_without_candidate_is_wholly_undecided(model, tiny_shards, refinement):
    split = tiny_shards.split("val")
    split.labels[3] = False
    masks = list(extract(model, split, refinement=refinement, confidence=True))
    assert (masks[3].mask == 255).all()
    assert not masks[3].confidence.any()
    assert not masks[3].candidates.any()
    assert not any((found.mask == 255).any() for found in masks if found.index != 3)


def test_a_background_without_token_is_painted_by_its_fill_rule_alone(tiny_shards):
    model, split = large_weights(num_classes=7), tiny_shards.split("val")
    settings: dict[str, Any] = {"label_source": "predicted", "classes": WITH_BACKGROUND, "assignment": "paper"}
    filled = list(extract(model, split, fill="background", **settings))
    ignored = list(extract(model, split, fill="ignore", **settings))
    assert any((found.mask == 2).any() for found in filled)
    for one, other in zip(filled, ignored, strict=True):
        tokens = [WITH_BACKGROUND.tokens[c] for c in np.flatnonzero(one.candidates)]
        assert set(np.unique(one.mask)) <= {2, *tokens, 255}
        if tokens:
            assert np.array_equal(one.mask == 2, other.mask == 255)
            assert np.array_equal(one.mask[one.mask != 2], other.mask[other.mask != 255])


@pytest.mark.parametrize(
    ("fill", "classes", "message"),
    [
        ("background", PLAIN, r"fill: background needs a class without token: name it in dataset\.background"),
        ("nearest", WITH_BACKGROUND, "fill: nearest would never paint 'c', which has no class token"),
    ],
)
def test_a_fill_rule_that_does_not_fit_the_classes_is_refused(fill, classes, message):
    with pytest.raises(ParamsError, match=message):
        check_fill(ExtractConfig(fill=fill), classes)


@pytest.mark.parametrize(
    ("fill", "classes"),
    [("nearest", PLAIN), ("ignore", PLAIN), ("ignore", WITH_BACKGROUND), ("background", WITH_BACKGROUND)],
)
def test_the_other_rules_are_taken(fill, classes):
    check_fill(ExtractConfig(fill=fill), classes)


def test_masks_come_before_the_split_has_been_read(model, tiny_shards, rewrite):
    damaged = rewrite(tiny_shards, {})
    path = damaged.path / "val-00000.tar"
    whole = path.read_bytes()
    half = whole.index(damaged.split("val").keys[4].encode() + b".npy")
    path.write_bytes(whole[:half] + bytes(len(whole) - half))
    masks = extract(model, damaged.split("val"), batch_size=2)
    expected = extract(model, tiny_shards.split("val"), batch_size=2)
    for _ in range(4):
        assert np.array_equal(next(masks).mask, next(expected).mask)
    with pytest.raises(ArtifactError, match="damaged"):
        next(masks)


def test_pamr_refines_the_maps_of_the_candidates_by_the_models_own_input(model, tiny_shards):
    split = tiny_shards.split("val")
    inputs = InputSpec((24, 32), 15, 1e-4)
    plain, refined = (list(extract(model, split, refinement=word)) for word in ("none", "pamr"))
    assert any(not np.array_equal(a.mask, b.mask) for a, b in zip(plain, refined, strict=True))
    for one in refined:
        image, chosen = ShardDataset(split, inputs)[one.index]["image"], torch.from_numpy(one.candidates)
        maps = refine_pixels(image, torch.from_numpy(one.maps)[chosen])
        probabilities = torch.from_numpy(one.logits).sigmoid()[chosen]
        expected, _ = assign_argmax(maps, probabilities, (32, 32), "nearest", normalised=True)
        assert np.array_equal(one.mask, one.candidates.nonzero()[0][expected])


def test_asking_for_confidence_changes_no_mask(model, tiny_shards):
    split = tiny_shards.split("val")
    for one, other in zip(extract(model, split), extract(model, split, confidence=True), strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert one.confidence is None
        assert other.confidence.shape == one.mask.shape
        assert other.confidence.min() >= 255 // max(1, other.candidates.sum())


def test_the_rule_paper_has_no_confidence():
    with pytest.raises(ValidationError, match=r"paper paints one class over the other \(assignment: paper\): take"):
        ExtractConfig(assignment="paper", confidence=True)
    with pytest.raises(ValidationError, match=r"\(auto: attention, auto: cam\+paper\)"):
        ExtractConfig(strategy="auto", auto=("relevance", "attention", "cam+paper"), confidence=True)
    assert ExtractConfig(strategy="auto", assignment="paper", confidence=True).confidence
    assert ExtractConfig(strategy="auto", auto=("attention",)).auto == ("attention",)


def test_a_recipe_of_auto_that_cannot_be_read_is_refused_with_the_words():
    with pytest.raises(ValidationError, match=r"cannot read 'relevence'.*attention, relevance"):
        ExtractConfig(auto=("relevence",))


def test_auto_must_have_been_resolved(model, tiny_shards):
    with pytest.raises(ParamsError, match=r"strategy is auto.*auto\.choose"):
        next(extract(model, tiny_shards.split("val"), strategy="auto"))


def test_every_sample_has_a_mask_and_no_parameter_gets_a_gradient(model, tiny_shards):
    assert len(list(extract(model, tiny_shards.split("train"), batch_size=2))) == 24
    assert all(parameter.grad is None for parameter in model.parameters())
