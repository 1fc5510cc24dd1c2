"""Class maps against an independent transformer that materialises every N x N attention matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.pruning import prune_heads
from ctm.pseudomasks.config import MapConfig
from ctm.pseudomasks.maps import attention_maps, class_maps, relevance_maps

CLASSES, HEADS, DEPTH, WIDTH = 4, 3, 3, 24
GRID = (2, 3)
CANDIDATES = torch.tensor([[True, False, True, True], [False, True, False, False], [False] * 4])


def make_model(*, channels: int = 3, closed: tuple[tuple[int, ...], ...] = ((), (), ())) -> ClassTokenViT:
    config = ModelConfig(
        backbone="vit_tiny_patch16_224", image_size=(8, 12), patch_size=4, depth=DEPTH, embed_dim=WIDTH, num_heads=HEADS
    )
    torch.manual_seed(1)
    model = ClassTokenViT(config, GatesConfig(), num_classes=CLASSES, in_channels=channels).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.25)
    for gate, heads in zip(model.gates, closed, strict=True):
        gate.log_alpha.data[list(heads)] = -1.0
    return model


def naive_forward(model: ClassTokenViT, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits and each block's full softmax attention (B, H, N, N), written out from the weights."""
    w = model.state_dict()
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=4).flatten(2).transpose(1, 2)
    b = len(images)
    ends = w["class_tokens"].expand(b, -1, -1), w["register_token"].expand(b, -1, -1)
    x = torch.cat([ends[0], x, ends[1]], dim=1) + w["pos_embed"]
    matrices = []
    for i in range(DEPTH):

        def layer(name: str, block: int = i) -> tuple[Tensor, Tensor]:
            return w[f"blocks.{block}.{name}.weight"], w[f"blocks.{block}.{name}.bias"]

        y = F.layer_norm(x, (WIDTH,), *layer("norm1"), eps=1e-6)
        q, k, v = F.linear(y, *layer("attn.qkv")).view(b, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        matrix = torch.softmax(q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5, dim=-1).requires_grad_()
        matrices.append(matrix)
        opened = (w[f"blocks.{i}.attn.gate.log_alpha"] > 0).float()[:, None, None]
        x = x + F.linear((opened * (matrix @ v)).transpose(1, 2).flatten(2), *layer("attn.proj"))
        y = F.layer_norm(x, (WIDTH,), *layer("norm2"), eps=1e-6)
        x = x + F.linear(F.gelu(F.linear(y, *layer("mlp.fc1"))), *layer("mlp.fc2"))
    x = F.layer_norm(x, (WIDTH,), w["norm.weight"], w["norm.bias"], eps=1e-6)
    return F.linear(x[:, :CLASSES].flatten(1), w["head.weight"], w["head.bias"]), matrices


def naive_attention(model: ClassTokenViT, images: Tensor) -> Tensor:
    _, matrices = naive_forward(model, images)
    total = torch.zeros(len(images), CLASSES, *GRID)
    for block, matrix in enumerate(matrices):
        for head in range(HEADS):
            if model.gates[block].log_alpha[head] > 0:
                total += matrix[:, head, :CLASSES, CLASSES : CLASSES + 6].detach().view(-1, CLASSES, *GRID) / HEADS
    return total


def naive_relevance(model: ClassTokenViT, images: Tensor, candidates: Tensor, blocks: int) -> Tensor:
    """One image and one class at a time, gradients over the whole network."""
    maps = torch.zeros(len(images), CLASSES, 6)
    for b, c in candidates.nonzero().tolist():
        logits, matrices = naive_forward(model, images[b : b + 1])
        gradients = torch.autograd.grad(logits[0, c], matrices)
        for matrix, gradient in list(zip(matrices, gradients, strict=True))[DEPTH - blocks :]:
            product = (matrix * gradient).relu()[0].sum(dim=0)
            maps[b, c] += product[:CLASSES, CLASSES : CLASSES + 6].sum(dim=0).detach()
    return maps.view(-1, CLASSES, *GRID)


def naive_affinity(model: ClassTokenViT, images: Tensor, blocks: int) -> Tensor:
    _, matrices = naive_forward(model, images)
    total = torch.stack(matrices[DEPTH - blocks :]).detach().mean(dim=(0, 2))
    patches = total[:, CLASSES : CLASSES + 6, CLASSES : CLASSES + 6]
    return patches / patches.sum(dim=-1, keepdim=True)


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 15])
@pytest.mark.parametrize("closed", [((), (), ()), ((0,), (0, 1, 2), (2,))])
def test_attention_maps_are_the_papers_aggregate(channels: int, closed):
    model, images = make_model(channels=channels, closed=closed), torch.randn(3, channels, 8, 12)
    maps, logits = attention_maps(model, images)
    assert close(maps, naive_attention(model, images))
    assert close(logits, naive_forward(model, images)[0])
    assert not maps.requires_grad


@pytest.mark.parametrize("blocks", [None, 1, 2, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_relevance_maps_are_attention_times_gradient_of_each_candidate(blocks: int | None, frozen: bool):
    model, images = make_model().requires_grad_(not frozen), torch.randn(3, 3, 8, 12)
    maps, logits = relevance_maps(model, images, CANDIDATES, blocks)
    expected = naive_relevance(model, images, CANDIDATES, blocks or DEPTH)
    assert expected[CANDIDATES].sum(dim=(1, 2)).min() > 1e-4
    assert close(maps, expected)
    assert close(logits, naive_forward(model, images)[0])
    assert not maps.requires_grad
    assert not logits.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_relevance_of_an_image_does_not_depend_on_its_batch():
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    candidates = torch.ones(3, CLASSES, dtype=torch.bool)
    together, _ = relevance_maps(model, images, candidates, 2)
    alone = [relevance_maps(model, images[i : i + 1], candidates[i : i + 1], 2)[0] for i in range(3)]
    assert close(together, torch.cat(alone))


def test_relevance_reads_through_closed_heads_as_if_they_were_not_there():
    model, images = make_model(closed=((0,), (0, 1, 2), (2,))), torch.randn(3, 3, 8, 12)
    pruned = prune_heads(model)
    for blocks in (1, 2, 3):
        gated_maps, _ = relevance_maps(model, images, CANDIDATES, blocks)
        assert close(gated_maps, naive_relevance(model, images, CANDIDATES, blocks))
        assert close(relevance_maps(pruned, images, CANDIDATES, blocks)[0], gated_maps)


def test_blocks_without_any_head_have_no_relevance():
    model = prune_heads(make_model(closed=((), (), (0, 1, 2))))
    maps, logits = relevance_maps(model, torch.randn(3, 3, 8, 12), CANDIDATES, 1)
    assert not maps.any()
    assert logits.shape == (3, CLASSES)


def test_a_batch_without_candidates_gives_zero_maps():
    maps, _ = relevance_maps(make_model(), torch.randn(2, 3, 8, 12), torch.zeros(2, CLASSES, dtype=torch.bool))
    assert maps.shape == (2, CLASSES, *GRID)
    assert not maps.any()


def test_relevance_finds_its_gradient_where_the_caller_has_switched_gradients_off():
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    with torch.no_grad():
        maps, _ = relevance_maps(model, images, CANDIDATES, 2)
    assert close(maps, naive_relevance(model, images, CANDIDATES, 2))


def test_relevance_runs_each_block_once_and_keeps_no_graph_of_the_early_ones():
    model, runs = make_model(), []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, args, out, i=i: runs.append((i, out.requires_grad)))
    relevance_maps(model, torch.randn(2, 3, 8, 12), CANDIDATES[:2], 2)
    assert runs == [(0, False), (1, True), (2, True)]


def test_a_batch_costs_as_many_backward_passes_as_the_most_candidates_of_an_image():
    model, passes = make_model(), []
    model.head.register_full_backward_hook(lambda module, grad_in, grad_out: passes.append(grad_out[0].clone()))
    relevance_maps(model, torch.randn(3, 3, 8, 12), CANDIDATES)
    assert [p.tolist() for p in passes] == [
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]


@pytest.mark.parametrize("strategy", ["attention", "relevance"])
@pytest.mark.parametrize("blocks", [None, 1, 2])
def test_class_maps_refine_by_the_affinity_of_the_last_blocks(strategy: str, blocks: int | None):
    model, images = make_model(), torch.randn(3, 3, 8, 12)
    plain = class_maps(model, images, CANDIDATES, MapConfig(strategy=strategy, blocks=blocks)).maps
    refined = class_maps(
        model, images, CANDIDATES, MapConfig(strategy=strategy, blocks=blocks, refinement="affinity")
    ).maps
    affinity = naive_affinity(model, images, blocks or DEPTH)
    expected = torch.einsum("bij,bcj->bci", affinity, plain.flatten(2)).view(3, CLASSES, *GRID)
    assert close(refined, expected)
    assert not torch.allclose(refined, plain, rtol=1e-2)


@pytest.mark.parametrize("refinement", ["none", "affinity"])
@pytest.mark.parametrize("strategy", ["attention", "relevance"])
def test_gated_and_pruned_models_give_the_same_class_maps(strategy: str, refinement: str):
    model, images = make_model(closed=((0,), (0, 1, 2), (2,))), torch.randn(3, 3, 8, 12)
    config = MapConfig(strategy=strategy, refinement=refinement)
    gated, pruned = (class_maps(m, images, CANDIDATES, config) for m in (model, prune_heads(model)))
    assert close(gated.maps, pruned.maps)
    assert gated.maps.any()


@pytest.mark.parametrize("strategy", ["attention", "relevance"])
def test_class_maps_are_zero_where_a_class_is_no_candidate(strategy: str):
    result = class_maps(make_model(), torch.randn(3, 3, 8, 12), CANDIDATES, MapConfig(strategy=strategy))
    assert not result.maps[~CANDIDATES].any()
    assert result.maps[CANDIDATES].flatten(1).any(dim=1).all()
    assert torch.equal(result.candidates, CANDIDATES)


@pytest.mark.parametrize("strategy", ["attention", "relevance"])
def test_predicted_candidates_are_those_above_the_threshold(strategy: str):
    model, images, config = make_model(), torch.randn(4, 3, 8, 12), MapConfig(strategy=strategy)
    probabilities = naive_forward(model, images)[0].sigmoid()
    threshold = probabilities.median().item() + 1e-4
    predicted = class_maps(model, images, None, config, threshold=threshold)
    assert 0 < predicted.candidates.sum() < predicted.candidates.numel()
    assert torch.equal(predicted.candidates, probabilities > threshold)
    assert close(predicted.maps, class_maps(model, images, probabilities > threshold, config).maps)


def test_maps_of_a_model_in_training_are_refused():
    model = make_model().train()
    with pytest.raises(ValueError, match="eval"):
        attention_maps(model, torch.zeros(1, 3, 8, 12))
    with pytest.raises(ValueError, match="eval"):
        relevance_maps(model, torch.zeros(1, 3, 8, 12), CANDIDATES[:1])


@pytest.mark.parametrize("blocks", [0, 4])
def test_more_blocks_than_the_model_has_are_refused(blocks: int):
    with pytest.raises(ValueError, match="choose 1 to 3"):
        relevance_maps(make_model(), torch.zeros(1, 3, 8, 12), CANDIDATES[:1], blocks)
