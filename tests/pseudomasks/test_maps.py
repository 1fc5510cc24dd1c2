"""Class maps as configured: candidates, affinity, several sizes and mirror images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ctm.models.pruning import prune_heads
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.maps import class_maps, propagate
from ctm.pseudomasks.strategies import STRATEGIES
from tests.pseudomasks.naive import (
    CANDIDATES,
    CLASSES,
    DEPTH,
    GRID,
    close,
    make_model,
    naive_affinity,
    naive_forward,
    naive_maps,
)

EVERY = pytest.mark.parametrize("strategy", STRATEGIES)


def refined(maps: Tensor, affinity: Tensor) -> Tensor:
    return torch.einsum("bij,bcj->bci", affinity, maps.flatten(2)).view(maps.shape)


@EVERY
@pytest.mark.parametrize("blocks", [None, 1, 2])
@pytest.mark.parametrize("refinement", ["affinity", "affinity+pamr"])
def test_maps_are_refined_by_the_affinity_of_the_last_blocks(strategy, blocks, refinement):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    plain = class_maps(model, images, CANDIDATES, MapConfig(strategy=strategy, blocks=blocks)).maps
    config = MapConfig(strategy=strategy, blocks=blocks, refinement=refinement)
    found = class_maps(model, images, CANDIDATES, config).maps
    assert close(found, refined(plain, naive_affinity(model, images, blocks or DEPTH)))
    assert not torch.allclose(found, plain, rtol=1e-2)


@EVERY
def test_pamr_is_not_done_here(strategy):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    plain, pamr = (
        class_maps(model, images, CANDIDATES, MapConfig(strategy=strategy, refinement=refinement)).maps
        for refinement in ("none", "pamr")
    )
    assert torch.equal(plain, pamr)


@EVERY
@pytest.mark.parametrize("refinement", ["none", "affinity"])
def test_gated_and_pruned_models_give_the_same_class_maps(strategy, refinement):
    model, images = make_model(closed=((0,), (0, 1, 2), (2,))), torch.randn(3, 3, 8, 12)
    config = MapConfig(strategy=strategy, refinement=refinement, scales=(1.0, 2.0), flip=True)
    gated, pruned = (class_maps(m, images, CANDIDATES, config) for m in (model, prune_heads(model)))
    assert close(gated.maps, pruned.maps)
    assert gated.maps.any()


@EVERY
@pytest.mark.parametrize("scales", [(1.0,), (2.0, 1.0), (2.0, 3.0)])
def test_predicted_candidates_are_decided_once_by_the_first_view(strategy, scales):
    model, images = make_model(), torch.randn(4, 3, 8, 12)
    config = MapConfig(strategy=strategy, scales=scales, flip=True)
    seen = images if 1.0 in scales else F.interpolate(images, scale_factor=2.0, mode="bilinear", antialias=True)
    logits = naive_forward(model, seen).logits
    probabilities = logits.sigmoid()
    threshold = probabilities.median().item() + 1e-4
    predicted = class_maps(model, images, None, config, threshold=threshold)
    assert 0 < predicted.candidates.sum() < predicted.candidates.numel()
    assert torch.equal(predicted.candidates, probabilities > threshold)
    assert close(predicted.logits, logits)
    given = class_maps(model, images, probabilities > threshold, config)
    assert close(predicted.maps, given.maps)
    assert not predicted.maps[~predicted.candidates].any()


@EVERY
@pytest.mark.parametrize("refinement", ["none", "affinity"])
def test_one_scale_without_mirroring_is_the_single_pass_bit_for_bit(strategy, refinement):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    config = MapConfig(strategy=strategy, refinement=refinement)
    plain = class_maps(model, images, CANDIDATES, config)
    again = class_maps(model, images, CANDIDATES, config.model_copy(update={"scales": (1.0, 1.04), "flip": False}))
    assert torch.equal(plain.maps, again.maps)  # 1.04 rounds to the same size, which is read once
    assert torch.equal(plain.logits, again.logits)


@EVERY
@pytest.mark.parametrize("refinement", ["none", "affinity"])
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 2.0), (0.5, 1.5)])
def test_with_mirroring_the_maps_of_a_mirrored_image_are_mirrored(strategy, refinement, scales):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    config = MapConfig(strategy=strategy, refinement=refinement, scales=scales, flip=True)
    straight, mirrored = (class_maps(model, view, CANDIDATES, config).maps for view in (images, images.flip(-1)))
    assert straight.any()
    assert close(mirrored, straight.flip(-1))


@EVERY
@pytest.mark.parametrize("refinement", ["none", "affinity"])
def test_several_views_are_the_mean_of_single_passes_refined_on_their_own_grids(strategy, refinement):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    config = MapConfig(strategy=strategy, refinement=refinement, scales=(1.0, 2.0), flip=True)
    expected = torch.zeros(3, CLASSES, 4, 6)
    for size in ((8, 12), (16, 24)):
        for mirrored in (False, True):
            view = F.interpolate(images, size=size, mode="bilinear", antialias=True)
            view = view.flip(-1) if mirrored else view
            maps = naive_maps(strategy, model, view, CANDIDATES)
            if refinement == "affinity":
                maps = refined(maps, naive_affinity(model, view, DEPTH))
            maps = F.interpolate(maps.flip(-1) if mirrored else maps, size=(4, 6), mode="bilinear")
            expected += maps / maps.sum(dim=(2, 3), keepdim=True).clamp_min(1e-30) / 4
    assert torch.allclose(class_maps(model, images, CANDIDATES, config).maps, expected, rtol=1e-3, atol=1e-4)


def test_images_without_candidates_have_zero_maps_at_every_size():
    nothing = torch.zeros(2, CLASSES, dtype=torch.bool)
    for scales in ((1.0,), (1.0, 2.0)):
        maps = class_maps(make_model(), torch.randn(2, 3, 8, 12), nothing, MapConfig(scales=scales)).maps
        assert maps.shape == (2, CLASSES, *(int(side * max(scales)) for side in GRID))
        assert not maps.any()


def test_maps_of_a_model_in_training_are_refused():
    with pytest.raises(ValueError, match="eval"):
        class_maps(make_model().train(), torch.zeros(1, 3, 8, 12), CANDIDATES[:1], MapConfig())


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,)])
def test_scales_that_give_no_image_are_refused(scales):
    with pytest.raises(ValueError, match="scales"):
        MapConfig(scales=scales)


def test_propagation_gives_each_patch_the_row_normalised_average_of_the_patches_it_attends_to():
    maps = torch.tensor([[[[1.0, 4.0]], [[0.0, 8.0]]]])  # (1, 2, 1, 2)
    affinity = torch.tensor([[[3.0, 1.0], [0.0, 0.5]]])
    # patch 0: 3/4 of itself, 1/4 of patch 1; patch 1: itself
    assert torch.allclose(propagate(maps, affinity), torch.tensor([[[[1.75, 4.0]], [[2.0, 8.0]]]]))
    none = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])  # patch 0 attends to no patch, and stays as it is
    assert torch.equal(propagate(maps, none), torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]]))
