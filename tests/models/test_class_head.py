"""The classifier's heads: what each logit is made of, what masking tells it, and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctm.models.class_head import DenseHead, DiagonalHead, make_head
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig

HEADS = pytest.mark.parametrize("kind", ["dense", "diagonal"])
B, C, D = 3, 5, 8


def tokens() -> torch.Tensor:
    return torch.randn(B, C, D, generator=torch.Generator().manual_seed(0))


def test_the_dense_head_is_the_papers_layer_with_its_start_and_its_names():
    torch.manual_seed(1)
    layer = nn.Linear(C * D, C)
    torch.manual_seed(1)
    head = make_head("dense", C, D)
    assert isinstance(head, DenseHead)
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in head.state_dict().items())
    assert torch.equal(head(tokens()), layer(tokens().flatten(1)))


def test_the_diagonal_head_is_the_dense_one_with_nothing_beside_the_diagonal():
    diagonal, dense = DiagonalHead(C, D), DenseHead(C, D)
    dense.weight.data = torch.block_diag(*(row[None] for row in diagonal.weight.data))
    dense.bias.data = diagonal.bias.data
    assert torch.allclose(diagonal(tokens()), dense(tokens()), atol=1e-6)
    assert [sum(p.numel() for p in head.parameters()) for head in (dense, diagonal)] == [C * C * D + C, C * D + C]
    assert diagonal.weight.abs().max() <= D**-0.5


def test_a_masked_token_leaves_the_diagonal_logit_at_its_bias_and_touches_no_other():
    head, masked = DiagonalHead(C, D), tokens()
    masked[:, 2] = 0
    others = [0, 1, 3, 4]
    assert torch.equal(head(masked)[:, 2], head.bias[2].expand(B))
    assert torch.equal(head(masked)[:, others], head(tokens())[:, others])
    dense = DenseHead(C, D)
    assert (dense(masked) != dense(tokens())).all()  # there every logit learns of it


@HEADS
def test_logits_of_some_classes_are_those_of_all_with_zeros_for_the_rest(kind):
    head = make_head(kind, C, D)
    classes = torch.tensor([[0, 3], [4, 1], [2, 3]])  # in any order, others for each image
    zeroed = torch.zeros(B, C, D)
    zeroed[torch.arange(B)[:, None], classes] = tokens()[torch.arange(B)[:, None], classes]
    found = head(tokens()[torch.arange(B)[:, None], classes], classes)
    assert torch.allclose(found, head(zeroed).gather(1, classes), atol=1e-6)
    assert head(torch.zeros(B, 0, D), torch.zeros(B, 0, dtype=torch.long)).shape == (B, 0)


@HEADS
def test_a_model_trains_with_the_head_by_the_names_that_rates_and_decay_go_by(kind):
    config = ModelConfig(backbone="test_vit", image_size=16, patch_size=4, depth=2, head=kind)
    model = ClassTokenViT(config, GatesConfig(), num_classes=C, in_channels=3)
    assert {name for name, _ in model.named_parameters() if name.startswith("head.")} == {"head.weight", "head.bias"}
    assert model.head.weight.ndim == 2  # decays; the bias does not
    present = torch.rand(B, C) < 0.5
    logits = model.training_logits(torch.randn(B, 3, 16, 16), present, masking_ratio=0.9)
    assert logits.masked.shape == logits.unmasked.shape == (B, C)
    logits.masked.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
