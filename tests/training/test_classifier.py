"""Training of the classifier on real shards: rates, decay, masking, gates, resuming, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset, make_loader
from ctm.data.shards import ShardFolder
from ctm.errors import ModelError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig
from ctm.params import Params
from ctm.runtime.context import Context
from ctm.training.checkpoints import Checkpoints
from ctm.training.classifier import ClassifierTask, train_classifier
from ctm.training.config import TrainClassifierConfig
from ctm.training.device import setup_fabric
from ctm.training.loop import Batch, Progress, fit
from ctm.training.optimiser import build_optimiser

STILL = 1e-12
"""A rate that moves nothing."""


def build(params: Params, shards: ShardFolder, *, seed: int = 0) -> ClassTokenViT:
    """The model as it starts."""
    torch.manual_seed(seed)
    return ClassTokenViT(params.model, params.gates, num_classes=len(shards.classes.tokens), in_channels=15)


def train(params: Params, shards: ShardFolder, folder: Path, *, seed: int = 0, **settings: Any) -> tuple[Any, Any]:
    model, _, history = train_classifier(
        shards,
        model=params.model,
        gates=settings.pop("gates", params.gates),
        training=params.train_classifier.model_copy(update=settings),
        seed=seed,
        precision=settings.pop("precision", "fp32"),
        context=Context(device="cpu", workers=0, checkpoints=folder, resume=True),
    )
    return model, history


def same(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(
    tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path
):
    first, rows = train(tiny_params, tiny_shards, tmp_path / "a", seed=3)
    torch.rand(3)
    second, again = train(tiny_params, tiny_shards, tmp_path / "b", seed=3)
    other, _ = train(tiny_params, tiny_shards, tmp_path / "c", seed=4)
    assert same(first, second)
    assert rows == again
    assert not same(first, other)
    assert not first.training


def test_the_history_tells_loss_parts_scores_and_open_heads(
    tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path
):
    _, history = train(tiny_params, tiny_shards, tmp_path)
    names = ["train_loss", "train_bce", "train_gates", "val_loss", "val_map", "val_accuracy", "val_chance_map"]
    assert [list(row) for row in history] == [["epoch", *names, "val_open_heads", "lr"]] * 2
    assert history[-1]["val_open_heads"] == 6
    assert 0 < history[-1]["train_gates"] <= 6


@pytest.mark.parametrize("group", ["lr", "head_lr", "gate_lr"])
def test_each_of_the_three_rates_moves_its_own_parameters(
    tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path, group: str
):
    rates = {"lr": STILL, "head_lr": STILL, "gate_lr": STILL, group: 1e-3}
    trained, _ = train(tiny_params, tiny_shards, tmp_path, weight_decay=0.0, pruning_weight=1.0, **rates)
    before = build(tiny_params, tiny_shards).state_dict()
    moved = {name for name, value in trained.state_dict().items() if (value - before[name]).abs().max() > 1e-7}
    names = {name for name, _ in trained.named_parameters()}
    gates = {name for name in names if name.endswith("log_alpha")}
    head = {"head.weight", "head.bias", "class_tokens", "register_token"}
    expected = {"lr": names - gates - head, "head_lr": head, "gate_lr": gates}[group]
    assert moved == expected


def test_decay_alone_leaves_gates_tokens_norms_and_biases(
    tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path
):
    def trained(decay: float) -> dict[str, Tensor]:
        still = {"lr": 1e-6, "head_lr": 1e-6, "gate_lr": 1e-6, "pruning_weight": 0.0}
        model, _ = train(tiny_params, tiny_shards, tmp_path / f"{decay}", weight_decay=decay, **still)
        return dict(model.named_parameters())

    without, strong = trained(0.0), trained(1e4)
    shrunk = {name for name, value in strong.items() if value.norm() < 0.995 * without[name].norm()}
    assert shrunk == {name for name in without if name.endswith(".weight") and without[name].ndim > 1}
    assert not shrunk & {"class_tokens", "register_token", "pos_embed"}


class Interrupted(ClassifierTask):
    """Stands in for a machine that goes down in the second epoch."""

    def losses(self, model: nn.Module, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        if progress.step == progress.steps_per_epoch + 1:
            raise KeyboardInterrupt
        return super().losses(model, batch, progress)


def test_a_run_interrupted_in_its_second_epoch_ends_with_the_same_weights(
    tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path
):
    model = tiny_params.model.model_copy(update={"drop_path": 0.3})
    params = tiny_params.model_copy(update={"model": model})
    undisturbed, rows = train(params, tiny_shards, tmp_path / "a", epochs=3)
    config = params.train_classifier.model_copy(update={"epochs": 3})
    network = build(params, tiny_shards)
    inputs = InputSpec((32, 32), 15, tiny_shards.scale, tiny_shards.mean, tiny_shards.std)
    rates = {"backbone": config.lr, "head": config.head_lr, "gates": config.gate_lr}
    loaders = {
        split: make_loader(
            ShardDataset(tiny_shards.split(split), inputs, augment=config.augment if split == "train" else None),
            batch_size=config.batch_size,
            shuffle=split == "train",
            seed=0,
        )
        for split in ("train", "val")
    }
    with pytest.raises(KeyboardInterrupt):
        fit(
            Interrupted(config, tiny_shards.classes, seed=0),
            network,
            build_optimiser(network, config, rates=rates, group_of=_group, no_decay=network.no_weight_decay()),
            fabric=setup_fabric("cpu", "fp32"),
            loaders=loaders,
            config=config,
            seed=0,
            checkpoints=Checkpoints(tmp_path / "b", resume=True),
        )
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["last.ckpt"]
    resumed, again = train(params, tiny_shards, tmp_path / "b", epochs=3)
    assert again == rows
    assert same(resumed, undisturbed)


def _group(name: str) -> str:
    if name.endswith("log_alpha"):
        return "gates"
    return "head" if name.startswith(("head.", "class_tokens", "register_token")) else "backbone"


def test_a_run_that_closes_every_head_is_refused(tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path):
    with pytest.raises(ModelError, match=r"every head gate has closed.*Lower\s+train_classifier\.pruning_weight"):
        train(tiny_params, tiny_shards, tmp_path, pruning_weight=5.0, gate_lr=5.0, gates=GatesConfig(initial=0.1))


def batch(shards: ShardFolder) -> Batch:
    inputs = InputSpec((32, 32), 15, shards.scale, shards.mean, shards.std)
    return next(iter(make_loader(ShardDataset(shards.split("train"), inputs), batch_size=8, shuffle=False, seed=0)))


def losses(
    params: Params,
    shards: ShardFolder,
    *,
    step: int = 30,
    seed: int = 0,
    model: ClassTokenViT | None = None,
    **settings: Any,
) -> dict[str, float]:
    config: TrainClassifierConfig = params.train_classifier.model_copy(update=settings)
    model = (model or build(params, shards)).train()
    torch.manual_seed(0)
    found = ClassifierTask(config, shards.classes, seed=seed).losses(model, batch(shards), Progress(step, 10))
    return {name: float(value.detach()) for name, value in found.items()}


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (5, 0.25), (10, 0.5), (20, 1.0), (30, 1.0)])
def test_lambda_rises_over_its_warmup(tiny_params: Params, tiny_shards: ShardFolder, step: int, share: float):
    found = losses(tiny_params, tiny_shards, step=step, pruning_weight=0.5, pruning_warmup_epochs=2.0)
    assert found["loss"] - found["bce"] == pytest.approx(share * 0.5 * found["gates"], abs=1e-6)
    assert found["gates"] == pytest.approx(6 * float(torch.sigmoid(torch.tensor(2.5 + 0.7913))), abs=1e-4)


def test_lambda_has_its_full_weight_at_once_without_warmup(tiny_params: Params, tiny_shards: ShardFolder):
    found = losses(tiny_params, tiny_shards, step=0, pruning_weight=0.5, pruning_warmup_epochs=0.0)
    assert found["loss"] - found["bce"] == pytest.approx(0.5 * found["gates"], abs=1e-6)


def test_gates_are_drawn_anew_in_each_step_from_the_seed_alone(tiny_params: Params, tiny_shards: ShardFolder):
    params = tiny_params.model_copy(update={"gates": GatesConfig(initial=0.0)})
    one = losses(params, tiny_shards, step=1, masking_ratio=0.0)
    torch.rand(9)
    assert losses(params, tiny_shards, step=1, masking_ratio=0.0) == one
    others = [losses(params, tiny_shards, step=step, masking_ratio=0.0)["bce"] for step in range(2, 8)]
    others += [losses(params, tiny_shards, step=1, seed=seed, masking_ratio=0.0)["bce"] for seed in (1, 2)]
    assert any(other != one["bce"] for other in others)


def test_masking_hides_absent_classes_in_training_and_never_in_validation(
    tiny_params: Params, tiny_shards: ShardFolder
):
    plain = losses(tiny_params, tiny_shards, masking_ratio=0.0)
    masked = losses(tiny_params, tiny_shards, masking_ratio=0.9)
    assert plain["bce"] != masked["bce"]

    def validated(ratio: float) -> dict[str, float | None]:
        config = tiny_params.train_classifier.model_copy(update={"masking_ratio": ratio})
        batches: Iterable[Batch] = [batch(tiny_shards)]
        with torch.inference_mode():
            model = build(tiny_params, tiny_shards).eval()
            return ClassifierTask(config, tiny_shards.classes, seed=0).validate(model, batches)

    assert validated(0.0) == validated(0.9)


def test_truth_is_never_opened(tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path, rewrite: Any):
    with_truth, _ = train(tiny_params, tiny_shards, tmp_path / "a")
    without, _ = train(tiny_params, rewrite(tiny_shards, {"mask.png": None}), tmp_path / "b")
    assert same(with_truth, without)


def test_training_in_bf16_keeps_weights_in_fp32(tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path):
    model, _, history = train_classifier(
        tiny_shards,
        model=tiny_params.model,
        gates=tiny_params.gates,
        training=tiny_params.train_classifier,
        seed=0,
        precision="bf16",
        context=Context(device="cpu", workers=0, checkpoints=tmp_path, resume=False),
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert history[-1]["train_loss"] > 0


def test_an_image_size_that_is_no_multiple_of_the_patch_is_refused(
    tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path
):
    model = tiny_params.model.model_copy(update={"image_size": 30})
    with pytest.raises(ModelError, match=r"30x30.*not a multiple of the patch size 8.*24 or 32"):
        train(tiny_params.model_copy(update={"model": model}), tiny_shards, tmp_path)
