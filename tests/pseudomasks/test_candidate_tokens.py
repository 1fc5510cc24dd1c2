"""Maps from the candidates' tokens alone: every strategy, any number of candidates, the way back to all classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.candidate_tokens import candidate_maps, equal_counts, windows
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.maps import class_maps
from ctm.pseudomasks.strategies import STRATEGIES
from tests.pseudomasks.naive import CLASSES, close, make_model

CANDIDATES = torch.tensor([[True, False, True, False], [False, True, True, False], [True, False, False, True]])
VIEWS = {"scales": (1.0, 1.5), "flip": True, "refinement": "affinity"}
EVERY = pytest.mark.parametrize("strategy", STRATEGIES)


def read(model: ClassTokenViT, images: Tensor, candidates: Tensor, **settings: object):
    return candidate_maps(model, images, candidates, MapConfig(**settings))


@EVERY
@pytest.mark.parametrize("settings", [{}, VIEWS, {"blocks": 2}, {"rows": "own"}], ids=str)
def test_with_every_class_a_candidate_the_maps_are_those_of_all_tokens(strategy, settings):
    model, images = make_model(), torch.randn(2, 3, 8, 12)
    every = torch.ones(2, CLASSES, dtype=torch.bool)
    found = read(model, images, every, strategy=strategy, **settings)
    expected = class_maps(model, images, every, MapConfig(strategy=strategy, **settings))
    assert close(found.maps, expected.maps)
    assert close(found.logits, expected.logits)
    assert found.maps.any()


@EVERY
@pytest.mark.parametrize("settings", [{}, VIEWS], ids=str)
def test_an_image_does_not_depend_on_the_others_of_its_group(strategy, settings):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    together = read(model, images, CANDIDATES, strategy=strategy, **settings)
    for b in range(3):
        alone = read(model, images[b : b + 1], CANDIDATES[b : b + 1], strategy=strategy, **settings)
        assert close(together.maps[b], alone.maps[0])
        assert close(together.logits[b][CANDIDATES[b]], alone.logits[0][CANDIDATES[b]])


@EVERY
def test_maps_lie_at_their_classes_and_the_logits_of_others_are_not_numbers(strategy):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    found = read(model, images, CANDIDATES, strategy=strategy)
    assert found.maps.shape == (3, CLASSES, 2, 3)
    assert found.maps.dtype == torch.float32
    assert not found.maps[~CANDIDATES].any()
    assert torch.equal(found.logits.isnan(), ~CANDIDATES)
    assert torch.equal(found.candidates, CANDIDATES)
    assert not close(found.maps, class_maps(model, images, CANDIDATES, MapConfig(strategy=strategy)).maps)


def test_without_a_candidate_nothing_runs():
    model, runs = make_model(), []
    model.blocks[0].register_forward_hook(lambda module, args, out: runs.append(out))
    found = read(model, torch.randn(2, 3, 8, 12), torch.zeros(2, CLASSES, dtype=torch.bool))
    assert not runs
    assert found.maps.shape == (2, CLASSES, 2, 3)
    assert not found.maps.any()
    assert found.logits.isnan().all()


def test_the_sequence_grows_with_the_candidates():
    model, lengths = make_model(), []
    model.blocks[0].register_forward_hook(lambda module, args, out: lengths.append(out.shape[1]))
    read(model, torch.randn(3, 3, 8, 12), CANDIDATES, strategy="attention")
    assert lengths == [2 + 6 + 1]


def test_windows_join_batches_and_groups_have_equal_counts_and_every_image_once():
    labels = torch.rand(23, CLASSES, generator=torch.Generator().manual_seed(0)) < 0.4
    batches = [{"index": torch.arange(23)[i : i + 4], "labels": labels[i : i + 4]} for i in range(0, 23, 4)]
    joined = list(windows(batches, 4))
    assert [len(window["index"]) for window in joined] == [16, 7]
    assert torch.cat([window["index"] for window in joined]).tolist() == list(range(23))
    groups = [group for window in joined for group in equal_counts(window, batch_size=4)]
    assert all(len(group["labels"].sum(dim=1).unique()) == 1 for group in groups)
    assert all(len(group["index"]) <= 4 for group in groups)
    assert torch.cat([group["index"] for group in groups]).sort().values.tolist() == list(range(23))
    assert all(torch.equal(labels[group["index"]], group["labels"]) for group in groups)
