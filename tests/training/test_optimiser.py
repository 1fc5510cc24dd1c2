"""Schedule and parameter groups, by their values."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from torch import nn

from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.training.config import TrainClassifierConfig
from ctm.training.optimiser import build_optimiser, cosine_with_warmup, fuses


def rates(*, warmup: int, total: int, peaks: tuple[float, ...] = (1.0,)) -> list[list[float]]:
    """The rates of each group in each step, as the optimiser uses them."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks]
    optimiser = torch.optim.AdamW(groups)
    schedule = cosine_with_warmup(optimiser, warmup_steps=warmup, total_steps=total)
    used = []
    for _ in range(total):
        used.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    used.append([group["lr"] for group in optimiser.param_groups])
    return used


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [(3, [1 / 4, 2 / 4, 3 / 4, 1, 0.5 * (1 + 2**-0.5), 0.5, 0.5 * (1 - 2**-0.5), 0]), (0, [1, 0.5, 0])],
)
def test_the_rate_rises_linearly_and_falls_on_half_a_cosine_to_zero(warmup, expected):
    assert [rate for (rate,) in rates(warmup=warmup, total=len(expected) - 1)] == pytest.approx(expected)


def test_all_groups_keep_their_proportions():
    for one, ten in rates(warmup=2, total=6, peaks=(1.0, 10.0)):
        assert ten == pytest.approx(10 * one)


@pytest.fixture
def model() -> ClassTokenViT:
    config = ModelConfig(
        backbone="vit_tiny_patch16_224", image_size=16, patch_size=8, depth=2, embed_dim=24, num_heads=3
    )
    return ClassTokenViT(config, GatesConfig(), num_classes=3, in_channels=2)


def test_nothing_decays_but_weights_of_layers(model):
    config = TrainClassifierConfig(epochs=2, weight_decay=0.3, betas=(0.8, 0.9))
    optimiser = build_optimiser(model, config, rates={"all": 1e-3}, group_of=lambda name: "all")
    names = {parameter: name for name, parameter in model.named_parameters()}
    decay = {names[p]: group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert set(decay) == set(names.values())
    layers = {
        f"blocks.{block}.{layer}.weight"
        for block in (0, 1)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    assert {name for name, value in decay.items() if value} == layers | {"patch_embed.proj.weight", "head.weight"}
    assert set(decay.values()) == {0.0, 0.3}
    assert all(group["betas"] == (0.8, 0.9) for group in optimiser.param_groups)


def test_each_group_gets_its_rate_and_frozen_parameters_get_none(model):
    model.patch_embed.requires_grad_(False)
    optimiser = build_optimiser(
        model,
        TrainClassifierConfig(epochs=2),
        rates={"gates": 0.1, "rest": 1e-3},
        group_of=lambda name: "gates" if name.endswith("log_alpha") else "rest",
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    lr = {names[p]: group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert {name for name, value in lr.items() if value == 0.1} == {f"blocks.{b}.attn.gate.log_alpha" for b in (0, 1)}
    assert not any(name.startswith("patch_embed") for name in lr)


def test_with_fp16_gradients_can_be_clipped():
    """On a CPU, with the scaling of gradients that a GPU has."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", device="cpu", scaler=scaler))
    layer = nn.Linear(2, 2)
    fused = fuses(torch.device("cuda"), "fp16")
    config = TrainClassifierConfig(epochs=1)
    optimiser = build_optimiser(layer, config, rates={"all": 1e-2}, group_of=lambda _: "all", fused=fused)
    before = layer.weight.detach().clone()
    wrapped, wrapped_optimiser = fabric.setup(layer, optimiser)
    fabric.backward(wrapped(torch.ones(1, 2)).float().sum())
    fabric.clip_gradients(wrapped, wrapped_optimiser, max_norm=1.0, error_if_nonfinite=False)
    wrapped_optimiser.step()
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cuda", "fp32", True), ("cuda", "bf16", True), ("cuda", "fp16", None), ("cpu", "fp32", None)],
)
def test_adamw_is_fused_on_a_gpu_unless_fabric_has_to_unscale(device, precision, expected):
    assert fuses(torch.device(device), precision) is expected
