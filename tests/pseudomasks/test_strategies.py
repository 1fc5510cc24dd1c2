"""Every map strategy against an independent transformer and loops over images and classes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from ctm.errors import ModelError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.pruning import prune_heads
from ctm.pseudomasks.map_config import MapConfig, StrategyName
from ctm.pseudomasks.recipes import needs_patch_head
from ctm.pseudomasks.strategies import STRATEGIES, read_maps
from ctm.pseudomasks.strategies.reading import ClassMaps
from tests.pseudomasks.naive import CANDIDATES, CLASSES, DEPTH, GRID, close, make_model, naive_forward, naive_maps

EVERY = pytest.mark.parametrize("strategy", STRATEGIES)
GRADIENTS = ("relevance", "gradcam")
BACKWARD = pytest.mark.parametrize("strategy", GRADIENTS)
OF_BLOCKS = pytest.mark.parametrize("strategy", [*GRADIENTS, "fused"])
OF_PATCH_HEAD = pytest.mark.parametrize("strategy", [name for name in STRATEGIES if needs_patch_head(name)])
CLOSED = ((0,), (0, 1, 2), (2,))


def read(
    model: ClassTokenViT, images: Tensor, strategy: str, candidates: Tensor = CANDIDATES, **settings: object
) -> ClassMaps:
    return read_maps(model, images, lambda logits: candidates, MapConfig(strategy=strategy, **settings))


def test_every_name_has_its_function():
    assert set(STRATEGIES) == set(get_args(StrategyName))


@EVERY
@pytest.mark.parametrize("channels", [1, 3, 15])
@pytest.mark.parametrize("size", [(8, 12), (12, 8), (16, 20)])
def test_maps_are_those_of_the_loops_at_any_size_and_number_of_channels(strategy, channels, size):
    model, images = make_model(channels=channels), torch.randn(3, channels, *size)
    found = read(model, images, strategy)
    expected = naive_maps(strategy, model, images, CANDIDATES)
    assert expected[CANDIDATES].flatten(1).amax(dim=1).max() > 1e-3
    assert close(found.maps, expected)
    assert close(found.logits, naive_forward(model, images).logits)
    assert found.maps.dtype == torch.float32
    assert found.maps.min() >= 0


@OF_BLOCKS
@pytest.mark.parametrize("blocks", [None, 1, 2, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_only_the_last_blocks_are_read(strategy, blocks, frozen):
    model, images = make_model().requires_grad_(not frozen), torch.randn(3, 3, 8, 12)
    found = read(model, images, strategy, blocks=blocks)
    assert close(found.maps, naive_maps(strategy, model, images, CANDIDATES, blocks=blocks or DEPTH))
    assert not found.maps.requires_grad
    assert not found.logits.requires_grad
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("blocks", [1, 3])
def test_relevance_of_the_own_row_is_that_of_the_classs_token_alone(blocks):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    own = read(model, images, "relevance", rows="own", blocks=blocks).maps
    assert close(own, naive_maps("relevance", model, images, CANDIDATES, blocks=blocks, rows="own"))
    every = read(model, images, "relevance", blocks=blocks).maps
    assert (own <= every + 1e-6).all()
    assert not close(own, every)


@EVERY
def test_maps_of_an_image_do_not_depend_on_its_batch(strategy):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    candidates = torch.tensor([[True] * 4, [True, False, False, True], [False, True, False, False]])
    together = read(model, images, strategy, candidates).maps
    alone = [read(model, images[i : i + 1], strategy, candidates[i : i + 1]).maps for i in range(3)]
    assert close(together, torch.cat(alone))


@EVERY
def test_closed_heads_are_read_as_if_they_were_not_there(strategy):
    model, images = make_model(closed=CLOSED), torch.randn(3, 3, 8, 12)
    found = read(model, images, strategy).maps
    assert close(found, naive_maps(strategy, model, images, CANDIDATES))
    assert close(read(prune_heads(model), images, strategy).maps, found)


@EVERY
def test_maps_are_zero_where_a_class_is_no_candidate(strategy):
    found = read(make_model(), torch.randn(3, 3, 8, 12), strategy)
    assert not found.maps[~CANDIDATES].any()
    assert found.maps[CANDIDATES].any()
    assert torch.equal(found.candidates, CANDIDATES)
    nothing = read(make_model(), torch.randn(3, 3, 8, 12), strategy, torch.zeros(3, CLASSES, dtype=torch.bool))
    assert nothing.maps.shape == (3, CLASSES, *GRID)
    assert not nothing.maps.any()


@OF_BLOCKS
def test_last_blocks_without_any_head_see_nothing(strategy):
    model = prune_heads(make_model(closed=((), (), (0, 1, 2))))
    found = read(model, torch.randn(3, 3, 8, 12), strategy, blocks=1)
    assert not found.maps.any()
    assert found.logits.shape == (3, CLASSES)


@BACKWARD
def test_gradients_are_found_where_the_caller_has_switched_them_off(strategy):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    with torch.no_grad():
        found = read(model, images, strategy, blocks=2).maps
    assert close(found, naive_maps(strategy, model, images, CANDIDATES, blocks=2))


@EVERY
def test_each_block_runs_once_and_no_graph_of_the_early_ones_is_kept(strategy):
    model, runs = make_model(), []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, args, out, i=i: runs.append((i, out.requires_grad)))
    read(model, torch.randn(3, 3, 8, 12), strategy, blocks=2)
    graph = strategy in GRADIENTS
    assert runs == [(0, False), (1, graph), (2, graph)]


@BACKWARD
def test_a_batch_costs_as_many_backward_passes_as_the_most_candidates_of_an_image(strategy):
    model, passes = make_model(), []
    model.head.register_full_backward_hook(lambda module, grad_in, grad_out: passes.append(grad_out[0].clone()))
    read(model, torch.randn(3, 3, 8, 12), strategy)
    assert [p.tolist() for p in passes] == [
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]


@OF_PATCH_HEAD
def test_a_class_without_a_positive_score_has_a_map_of_zeros(strategy):
    model = make_model()
    model.patch_head.linear.bias.data[2] = -100
    found = read(model, torch.randn(3, 3, 8, 12), strategy).maps
    assert not found[:, 2].any()
    assert found.any()


@OF_PATCH_HEAD
def test_a_model_without_patch_head_is_refused_by_the_strategies_that_read_it(strategy):
    with pytest.raises(ModelError, match=r"model\.patch_head: true and train"):
        read(make_model(patch_head=False), torch.randn(3, 3, 8, 12), strategy)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if not needs_patch_head(name)])
def test_the_other_strategies_need_no_patch_head(strategy):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    with_head = read(model, images, strategy).maps
    model.patch_head = None
    assert torch.equal(read(model, images, strategy).maps, with_head)


@OF_BLOCKS
@pytest.mark.parametrize("blocks", [4, 9])
def test_more_blocks_than_the_model_has_are_refused(strategy, blocks):
    with pytest.raises(ValueError, match="choose 1 to 3"):
        read(make_model(), torch.zeros(3, 3, 8, 12), strategy, blocks=blocks)
