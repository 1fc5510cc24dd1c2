"""A Vision Transformer with a light head as segmenter: shapes, weights, refusals, and a frozen encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ctm.data.inputs import InputSpec
from ctm.errors import ModelError
from ctm.models.segmenter import (
    SegmenterSpec,
    build_segmenter,
    freeze_encoder,
)
from ctm.models.vit_segmenter import VitSegmenter

TINY = {"depth": 2, "embed_dim": 24, "num_heads": 3, "patch_size": 8, "decoder_channels": 6}


def inputs(size: tuple[int, int] = (32, 48), channels: int = 3) -> InputSpec:
    return InputSpec(size, channels, 1 / 255)


def build(
    encoder: str = "test_vit",
    *,
    size: tuple[int, int] = (32, 48),
    channels: int = 3,
    pretrained: bool | str = False,
    **options: Any,
) -> nn.Module:
    spec = SegmenterSpec("vit", encoder, {**TINY, **options})
    return build_segmenter(spec, inputs(size, channels), num_classes=3, pretrained=pretrained)


@pytest.mark.parametrize("channels", [1, 3, 15])
def test_any_number_of_channels_and_a_size_that_is_no_square(channels):
    model = build(channels=channels)
    assert model(torch.zeros(2, channels, 32, 48)).shape == (2, 3, 32, 48)
    assert model.training


@pytest.mark.parametrize("encoder", ["test_vit", "test_vit2", "test_vit3", "vit_tiny_patch16_224"])
def test_every_plain_transformer_of_timm_will_do(encoder):
    spec = SegmenterSpec("vit", encoder, {})
    model = build_segmenter(spec, inputs((32, 64)), num_classes=3).eval()
    assert model(torch.zeros(1, 3, 32, 64)).shape == (1, 3, 32, 64)


def test_features_are_the_normed_patch_tokens_in_their_places():
    model = build("test_vit").eval()
    assert isinstance(model, VitSegmenter)
    images = torch.randn(2, 3, 32, 48)
    encoder: Any = model.encoder
    wanted = encoder.forward_features(images)[:, encoder.num_prefix_tokens :]  # (B, P, D)
    found = model.features(images)
    assert found.shape == (2, 24, 4, 6)
    assert torch.allclose(found[:, :, 1, 2], wanted[:, 1 * 6 + 2], atol=1e-6)
    assert torch.allclose(found.flatten(2).mT, wanted, atol=1e-6)


def test_a_backbone_that_pools_its_patches_has_its_norm_behind_the_pooling():
    model = build("test_vit2").eval()
    assert isinstance(model, VitSegmenter)
    assert isinstance(model.encoder.norm, nn.Identity)
    features = model.features(torch.randn(1, 3, 32, 48))
    assert torch.allclose(features.mean(dim=1), torch.zeros(1, 4, 6), atol=1e-5)


def test_the_head_can_see_the_last_blocks_side_by_side():
    model = build(blocks=2)
    assert isinstance(model, VitSegmenter)
    assert model.features(torch.zeros(1, 3, 32, 48)).shape == (1, 48, 4, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "test_vi"}, "encoder: timm has no model 'test_vi'.*close names: test_vit"),
        ({"encoder": "tu-test_vit"}, "timm has no model 'tu-test_vit'.*the prefix tu- is for"),
        ({"encoder": "resnet18"}, "resnet18 is no plain Vision Transformer.*tu-resnet18"),
        ({"encoder": "swin_tiny_patch4_window7_224"}, "no plain Vision Transformer"),
        ({"colour": "red"}, r"options: vit with test_vit takes no 'colour'\. Options: decoder_channels, blocks, patch"),
        ({"blocks": 3}, "blocks is 3; it is a whole number from 1 to 2, the encoder's blocks"),
        ({"decoder_channels": 0}, r"decoder_channels is 0; it is a whole number from 1\."),
        ({"num_heads": 5}, r"arch vit the encoder 'test_vit' cannot be built with .*'num_heads': 5"),
        ({"pretrained": "w.pth"}, r"train_segmenter\.pretrained: 'w\.pth' is no \.safetensors file"),
        ({"pretrained": "w.safetensors"}, r"train_segmenter\.pretrained: 'w\.safetensors' does not exist"),
        (
            {"size": (30, 50)},
            r"vit with test_vit cannot take images of 30 x 50 pixels .*divisible by patch size.*"
            r"Set train_segmenter\.image_size, for instance to 32 x 56\.",
        ),
    ],
)
def test_what_cannot_be_built_is_told_with_what_can(arguments, message):
    with pytest.raises(ModelError, match=message):
        build(**arguments)


def test_a_misspelt_architecture_names_vit_among_the_valid_ones():
    with pytest.raises(ModelError, match=r"no 'vitt'\. Did you mean vit\? Valid: .*unet.*vit"):
        build_segmenter(SegmenterSpec("vitt", "test_vit", {}), inputs(), num_classes=3)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of the tiny encoder for images of 32 pixels a side."""
    sizes = {name: TINY[name] for name in ("depth", "embed_dim", "num_heads", "patch_size")}
    save_file(timm.create_model("test_vit", img_size=32, **sizes).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_a_local_file_starts_the_encoder_at_any_size(weights):
    model = build(pretrained=str(weights), size=(48, 64))
    wanted = load_file(weights)
    own = {name.removeprefix("encoder."): value for name, value in model.state_dict().items()}
    shared = [name for name in wanted if name in own and name != "pos_embed"]
    assert len(shared) > 20
    assert all(torch.equal(own[name], wanted[name]) for name in shared)
    assert own["pos_embed"].shape[1] - wanted["pos_embed"].shape[1] == 6 * 8 - 4 * 4


def test_weights_of_another_model_are_refused(tmp_path):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"train_segmenter\.pretrained: .* belongs to another model"):
        build(pretrained=str(tmp_path / "other.safetensors"))


UNET = SegmenterSpec("unet", "resnet18", {"encoder_depth": 3, "decoder_channels": [8, 8, 8]})
VIT = SegmenterSpec("vit", "test_vit", {**TINY, "drop_path_rate": 0.9})


@pytest.mark.parametrize("spec", [UNET, VIT], ids=["batch normalisation", "drop path"])
def test_a_frozen_encoder_is_as_in_evaluation_and_the_head_learns(spec):
    model = build_segmenter(spec, inputs(), num_classes=3)
    freeze_encoder(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(4, 3, 32, 48)
    model.train()
    first = model(images)
    assert torch.equal(model(images), first), "the encoder does something at random"
    assert model.training
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    first.square().sum().backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith("encoder."))
    optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not [name for name in moved if name.startswith("encoder.")]


def test_no_activation_of_a_frozen_encoder_is_kept_for_a_gradient():
    model = build_segmenter(VIT, inputs(), num_classes=3)
    freeze_encoder(model)
    seen = []
    model.head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].requires_grad))
    model.train()(torch.randn(1, 3, 32, 48))
    assert seen == [False]
