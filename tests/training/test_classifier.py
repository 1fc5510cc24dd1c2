"""Training of the classifier on real shards: rates, decay, masking, gates, resuming, and what is refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset, make_loader
from ctm.data.shards import ShardFolder
from ctm.errors import ModelError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.pruning import compare_models, prune_heads
from ctm.params import Params
from ctm.pseudomasks.ranking import has_learned
from ctm.runtime.context import Context, Precision
from ctm.training.classifier import ClassifierTask, train_classifier
from ctm.training.config import TrainClassifierConfig
from ctm.training.head_selection import HeadSelection
from ctm.training.loop import Batch, Progress

Train = Callable[..., tuple[Any, Any]]
Losses = Callable[..., dict[str, float]]

STILL = 1e-12
"""A rate that moves nothing."""


def build(params: Params, shards: ShardFolder, *, seed: int = 0) -> ClassTokenViT:
    """The model as it starts."""
    torch.manual_seed(seed)
    return ClassTokenViT(params.model, params.gates, num_classes=len(shards.classes.tokens), in_channels=15)


@pytest.fixture
def train(tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path) -> Train:
    """Trains with checkpoints in a folder of that name, and gives the model and the history."""

    def trained(
        name: str = "run",
        *,
        params: Params = tiny_params,
        shards: ShardFolder = tiny_shards,
        seed: int = 0,
        precision: Precision = "fp32",
        **settings: Any,
    ) -> tuple[Any, Any]:
        model, _, history = train_classifier(
            shards,
            model=params.model,
            gates=params.gates,
            training=params.train_classifier.model_copy(update=settings),
            seed=seed,
            precision=precision,
            context=Context(device="cpu", workers=0, checkpoints=tmp_path / name, resume=True),
        )
        return model, history

    return trained


def batch(shards: ShardFolder) -> Batch:
    inputs = InputSpec((32, 32), 15, shards.scale, shards.mean, shards.std)
    return next(iter(make_loader(ShardDataset(shards.split("train"), inputs), batch_size=8, shuffle=False, seed=0)))


@pytest.fixture
def losses(tiny_params: Params, tiny_shards: ShardFolder) -> Losses:
    """The parts of the loss of a fresh model in one step."""

    def found(*, params: Params = tiny_params, step: int = 30, seed: int = 0, **settings: Any) -> dict[str, float]:
        task = ClassifierTask(params.train_classifier.model_copy(update=settings), tiny_shards.classes, seed=seed)
        model = build(params, tiny_shards).train()
        torch.manual_seed(0)
        parts = task.losses(model, batch(tiny_shards), Progress(step, 10))
        return {name: float(value.detach()) for name, value in parts.items()}

    return found


def same(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(train):
    first, rows = train("a", seed=3)
    torch.rand(3)
    second, again = train("b", seed=3)
    other, _ = train("c", seed=4)
    assert same(first, second)
    assert rows == again
    assert not same(first, other)
    assert not first.training


def test_the_history_tells_loss_parts_scores_and_open_heads(train):
    _, history = train()
    train_names = ["train_loss", "train_bce", "train_bce_unmasked", "train_gates"]
    val_names = ["val_loss", "val_map", "val_accuracy", "val_chance_map", "val_open_heads"]
    assert [list(row) for row in history] == [["epoch", *train_names, *val_names, "lr"]] * 2
    assert history[-1]["val_open_heads"] == 6
    assert 0 < history[-1]["train_gates"] <= 6


def test_a_patch_head_is_trained_beside_the_class_tokens_and_scored(changed, train, losses):
    params = changed(model={"patch_head": True})
    found = losses(params=params, pruning_weight=0.0)
    assert found["loss"] == pytest.approx(found["bce"] + found["patch_bce"])
    _, history = train(params=params)
    assert list(history[0])[1:5] == ["train_loss", "train_bce", "train_bce_unmasked", "train_patch_bce"]
    assert 0 < history[-1]["val_patch_map"] <= 1


@pytest.mark.parametrize("group", ["lr", "head_lr", "gate_lr"])
def test_each_of_the_three_rates_moves_its_own_parameters(changed, train, tiny_shards, group):
    params = changed(model={"patch_head": True})
    rates = {"lr": STILL, "head_lr": STILL, "gate_lr": STILL, group: 1e-3}
    trained, _ = train(params=params, weight_decay=0.0, pruning_weight=1.0, **rates)
    before = build(params, tiny_shards).state_dict()
    moved = {name for name, value in trained.state_dict().items() if (value - before[name]).abs().max() > 1e-7}
    names = {name for name, _ in trained.named_parameters()}
    gates = {name for name in names if name.endswith("log_alpha")}
    head = {name for name in names if name.startswith(("head.", "patch_head."))} | {"class_tokens", "register_token"}
    expected = {"lr": names - gates - head, "head_lr": head, "gate_lr": gates}[group]
    assert moved == expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"masking_warmup_epochs": 2.5, "accumulate": 2},
        {"sparsity": 0.5, "pruning_weight": 0.0},
        {"keep": "best"},
    ],
    ids=lambda settings: "+".join(settings) or "plain",
)
@pytest.mark.parametrize("step", [4, 6])
def test_a_run_interrupted_in_a_later_epoch_ends_with_the_same_weights(
    power_cut, changed, train, tmp_path, settings, step
):
    params = changed(model={"drop_path": 0.3})
    settings = {"epochs": 4, "gate_lr": 0.3, **settings}
    undisturbed, rows = train("a", params=params, **settings)
    with power_cut(step=step):
        train("b", params=params, **settings)
    assert list((tmp_path / "b").glob("*.ckpt"))
    resumed, again = train("b", params=params, **settings)
    assert again == rows
    assert same(resumed, undisturbed)


@pytest.mark.parametrize(("sparsity", "heads"), [(0.0, 6), (0.5, 3), (2 / 3, 2)])
def test_the_sparsity_asked_for_is_reached_and_the_heads_can_be_removed(train, tiny_shards, sparsity, heads):
    model, history = train(epochs=5, sparsity=sparsity, pruning_weight=0.0)
    closed = sum(int((gate.log_alpha < 0).sum()) for gate in model.gates)
    assert (closed, history[-1]["val_open_heads"], history[-1]["train_gates"]) == (6 - heads, heads, heads)
    assert history[0]["train_gates"] == 6  # nothing closes in the warm-up
    pruned = prune_heads(model)
    assert sum(map(len, pruned.kept_heads)) == heads
    assert all(pruned.kept_heads), "each block keeps its best head"
    assert compare_models(model, pruned, batch(tiny_shards)["image"]) < 1e-5


def test_a_sparsity_has_its_own_way_of_closing_heads():
    with pytest.raises(ValueError, match=r"pruning_weight \(0\.01\) has no say: set it to 0, or sparsity to null"):
        TrainClassifierConfig(epochs=2, sparsity=0.5)
    with pytest.raises(ValueError, match="set keep to last"):
        TrainClassifierConfig(epochs=2, sparsity=0.5, pruning_weight=0, keep="best")


def test_with_a_sparsity_gates_are_not_drawn_and_closed_heads_learn_nothing(tiny_params, tiny_shards):
    model = build(tiny_params, tiny_shards).train()
    HeadSelection(model.gates, sparsity=0.5, warmup=0, steps=1)
    model.gates[0].log_alpha.data[1] = -1.0
    config = tiny_params.train_classifier.model_copy(update={"sparsity": 0.5, "pruning_weight": 0.0})
    task = ClassifierTask(config, tiny_shards.classes, seed=0)
    found = []
    for step in (1, 2):
        torch.manual_seed(0)
        found.append(task.losses(model, batch(tiny_shards), Progress(step, 10)))
    assert found[0]["loss"].item() == found[1]["loss"].item() == found[0]["bce"].item()
    assert found[0]["gates"].item() == 5
    found[0]["loss"].backward()
    values = model.attentions[0].qkv.weight.grad[48:].view(3, 8, -1)
    assert [bool(head.any()) for head in values] == [True, False, True]
    assert all(gate.log_alpha.grad.ne(0).all() for gate in model.gates)  # of the closed head as well


def test_a_run_that_closes_every_head_is_refused(changed, train):
    params = changed(gates={"initial": 0.1})
    with pytest.raises(ModelError, match=r"every head gate has closed.*Lower\s+train_classifier\.pruning_weight"):
        train(params=params, pruning_weight=5.0, gate_lr=5.0)


def test_masking_rises_over_its_warmup(losses):
    def unmasked_alike(step: int, **settings: float) -> bool:
        found = losses(step=step, masking_ratio=0.9, **settings)
        return found["bce"] == found["bce_unmasked"]

    assert unmasked_alike(0, masking_warmup_epochs=2.0)
    assert not unmasked_alike(5, masking_warmup_epochs=2.0)
    assert not unmasked_alike(0)
    full = losses(step=20, masking_ratio=0.9)
    assert losses(step=20, masking_ratio=0.9, masking_warmup_epochs=2.0) == full
    assert losses(step=20, masking_ratio=0.45) == losses(step=20, masking_ratio=0.9, masking_warmup_epochs=4.0)


@pytest.mark.parametrize(
    ("warmup", "step", "share"), [(2, 0, 0.0), (2, 5, 0.25), (2, 10, 0.5), (2, 20, 1.0), (2, 30, 1.0), (0, 0, 1.0)]
)
def test_lambda_rises_over_its_warmup(losses, warmup, step, share):
    found = losses(step=step, pruning_weight=0.5, pruning_warmup_epochs=warmup)
    assert found["loss"] - found["bce"] == pytest.approx(share * 0.5 * found["gates"], abs=1e-6)
    assert found["gates"] == pytest.approx(6 * float(torch.sigmoid(torch.tensor(2.5 + 0.7913))), abs=1e-4)


def test_gates_are_drawn_anew_in_each_step_from_the_seed_alone(changed, losses):
    params = changed(gates={"initial": 0.0})
    one = losses(params=params, step=1, masking_ratio=0.0)
    torch.rand(9)
    assert losses(params=params, step=1, masking_ratio=0.0) == one
    others = [losses(params=params, step=step, masking_ratio=0.0)["bce"] for step in range(2, 8)]
    others += [losses(params=params, step=1, seed=seed, masking_ratio=0.0)["bce"] for seed in (1, 2)]
    assert any(other != one["bce"] for other in others)


def test_masking_hides_absent_classes_in_training_and_never_in_validation(losses, tiny_params, tiny_shards):
    plain = losses(masking_ratio=0.0)
    masked = losses(masking_ratio=0.9)
    assert plain["bce"] != masked["bce"]

    def validated(ratio: float) -> dict[str, float | None]:
        config = tiny_params.train_classifier.model_copy(update={"masking_ratio": ratio})
        batches: Iterable[Batch] = [batch(tiny_shards)]
        with torch.inference_mode():
            model = build(tiny_params, tiny_shards).eval()
            return ClassifierTask(config, tiny_shards.classes, seed=0).validate(model, batches)

    assert validated(0.0) == validated(0.9)


def test_a_classifier_that_has_not_learned_is_said_so_at_the_end(train, caplog):
    warned, learned = [], []
    for seed in (0, 1, 2):  # of 8 images a random ranking may be a lucky one
        caplog.clear()
        still = {"lr": STILL, "head_lr": STILL, "epochs": 1, "warmup_epochs": 0.0}
        _, (row,) = train(f"{seed}", seed=seed, **still)
        warned += [[record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]]
        learned += [has_learned(row["val_map"], row["val_chance_map"])]
    assert [not messages for messages in warned] == learned
    message = next(messages[0] for messages in warned if messages)
    assert re.match(r"the classifier has not learned: on the val split its mAP is 0\.\d+, where chance is 0\.", message)
    assert "masking_warmup_epochs" in message


def test_truth_is_never_opened(train, tiny_shards, rewrite):
    with_truth, _ = train("a")
    without, _ = train("b", shards=rewrite(tiny_shards, {"mask.png": None}))
    assert same(with_truth, without)


def test_training_in_bf16_keeps_weights_in_fp32(train, tiny_params, tiny_shards):
    seen = set()

    def see(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, nn.Linear):
            seen.add((output.dtype, torch.is_grad_enabled()))

    hook = nn.modules.module.register_module_forward_hook(see)
    try:
        model, history = train(precision="bf16")
    finally:
        hook.remove()
    assert seen == {(torch.bfloat16, True), (torch.bfloat16, False)}, "training and validation run in bf16"
    start = build(tiny_params, tiny_shards).state_dict()
    assert not any(torch.equal(value, start[name]) for name, value in model.state_dict().items()), "all have learned"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert history[-1]["train_loss"] > 0
