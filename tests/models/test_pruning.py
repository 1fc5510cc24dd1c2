"""Physical head removal computes the same as closed gates, on every kind of attention."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from ctm.errors import ModelError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.pruning import compare_models, forward_seconds, prune_heads

CLOSED = [[1], [0, 1, 2], [], [0, 2]]
KEPT = [[0, 2], [], [0, 1, 2], [1]]


def make_model(
    backbone: str = "vit_tiny_patch16_224", *, closed: list[list[int]] = CLOSED, head: str = "dense"
) -> ClassTokenViT:
    config = ModelConfig(
        backbone=backbone, image_size=(32, 48), patch_size=16, depth=len(closed), embed_dim=24, num_heads=3, head=head
    )
    torch.manual_seed(0)
    model = ClassTokenViT(config, GatesConfig(), num_classes=4, in_channels=2).eval()
    for parameter in model.parameters():  # large values, so that a wrong head would show
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    for name, parameter in model.named_parameters():
        if name.endswith((".bias", "gamma")):
            nn.init.normal_(parameter, std=0.5)
    for gate, heads in zip(model.gates, closed, strict=True):
        gate.log_alpha.data[heads] = -1.0
    return model


def with_qk_norm(model: ClassTokenViT) -> ClassTokenViT:
    for attention in model.attentions:
        for name in ("q_norm", "k_norm"):
            norm = nn.LayerNorm(8)
            nn.init.normal_(norm.weight)
            setattr(attention, name, norm)
    return model


MODELS = {
    "plain": lambda: make_model(),
    "diagonal-head": lambda: make_model(head="diagonal"),
    "qk-norm": lambda: with_qk_norm(make_model()),
    "layer-scale": lambda: make_model("test_vit2"),
    "without-qkv-bias": lambda: make_model("aimv2_large_patch14_224"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_pruned_model_gives_the_gated_ones_logits_and_maps(kind):
    gated, images = MODELS[kind](), torch.randn(3, 2, 32, 48)
    pruned = prune_heads(gated)
    assert compare_models(gated, pruned, images) < 1e-4
    opened = copy.deepcopy(gated)
    for gate in opened.gates:
        gate.log_alpha.data.fill_(1.0)
    assert compare_models(opened, pruned, images) > 1e-2  # the closed heads did matter


def test_heads_are_cut_out_of_the_weights_and_their_indices_kept():
    gated = make_model()
    before = {name: value.clone() for name, value in gated.state_dict().items()}
    pruned = prune_heads(gated)
    assert pruned.kept_heads == KEPT
    assert gated.kept_heads == [[0, 1, 2]] * 4
    assert [a.qkv.weight.shape[0] for a in pruned.attentions] == [3 * 8 * len(heads) for heads in KEPT]
    assert [a.proj.weight.shape[1] for a in pruned.attentions] == [8 * len(heads) for heads in KEPT]
    assert pruned.gates == []
    assert pruned.original_heads == 3
    assert pruned.gate_penalty().item() == 0
    last = pruned.attentions[3].qkv.weight
    assert torch.equal(
        last, torch.cat([before["blocks.3.attn.qkv.weight"][i * 24 + 8 : i * 24 + 16] for i in range(3)])
    )
    assert all(torch.equal(value, gated.state_dict()[name]) for name, value in before.items())


def test_a_block_without_heads_adds_the_bias_of_its_projection():
    pruned = prune_heads(make_model())
    attention = pruned.attentions[1]
    out = attention(torch.randn(2, 5, 24))
    assert torch.equal(out, attention.proj.bias.expand(2, 5, -1))


def test_a_change_of_the_pruned_copy_does_not_reach_the_original():
    gated = make_model()
    before = gated.attentions[0].proj.bias.clone()
    for parameter in prune_heads(gated).parameters():
        parameter.data.zero_()
    assert torch.equal(gated.attentions[0].proj.bias, before)


def test_a_model_without_any_open_head_is_refused():
    with pytest.raises(ModelError, match="no head is open in any of the 2 blocks"):
        prune_heads(make_model(closed=[[0, 1, 2], [0, 1, 2]]))


def test_a_pruned_model_is_not_pruned_again():
    with pytest.raises(ModelError, match="already"):
        prune_heads(prune_heads(make_model()))


def test_the_pruned_model_still_learns():
    pruned = prune_heads(make_model()).train()
    pruned(torch.randn(2, 2, 32, 48)).sum().backward()
    unused = {name for name, p in pruned.named_parameters() if p.numel() and p.grad is None}
    assert unused == {"blocks.1.norm1.weight", "blocks.1.norm1.bias"}  # the block without heads reads no token


def test_forward_seconds_is_a_positive_median():
    assert 0 < forward_seconds(make_model(), torch.randn(1, 2, 32, 48), repeats=3) < 10


def test_a_difference_that_is_no_number_is_not_lost():
    gated = make_model()
    pruned = prune_heads(gated)
    pruned.head.bias.data[0] = torch.nan
    assert math.isnan(compare_models(gated, pruned, torch.randn(1, 2, 32, 48)))
