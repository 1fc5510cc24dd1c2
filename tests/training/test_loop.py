"""The training loop: accumulation, resuming, the kept epoch, and losses that go wrong."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ctm.data.loaders import EpochSampler
from ctm.errors import ModelError
from ctm.runtime.preemption import Preempted, end_on_signals
from ctm.training.checkpoints import Checkpoints
from ctm.training.config import TrainClassifierConfig, TrainingConfig
from ctm.training.device import setup_fabric
from ctm.training.loop import Batch, Progress, fit
from ctm.training.optimiser import build_optimiser

SAMPLES = 20


class Numbers(Dataset[Batch]):
    """Points and a function of them; every epoch adds noise of its own."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(SAMPLES, 4, generator=generator)
        self.y = self.x.sin().sum(dim=1, keepdim=True)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        index, epoch = item
        noise = torch.randn(4, generator=torch.Generator().manual_seed(1000 * epoch + index))
        return {"x": self.x[index] + 0.01 * noise, "y": self.y[index]}


class Regression:
    """Squared error; ``values`` replaces the score of each epoch, ``fail`` raises in that batch, counted from 0."""

    monitor = "score"
    methods = ()

    def __init__(
        self, *, values: tuple[float | None, ...] = (), fail: int | None = None, nan: int | None = None
    ) -> None:
        self.values, self.fail, self.nan = values, fail, nan
        self.seen: list[dict[str, Tensor]] = []
        self.progress: list[Progress] = []

    def losses(self, model: nn.Module, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        if len(self.progress) == self.fail:
            raise KeyboardInterrupt
        self.progress.append(progress)
        epoch = progress.step // progress.steps_per_epoch + 1
        loss = (model(batch["x"]) - batch["y"]).square().mean()
        return {"loss": loss * math.nan if epoch == self.nan else loss, "size": loss.new_tensor(len(batch["x"]))}

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float | None]:
        assert not model.training
        assert not torch.is_grad_enabled()
        self.seen.append({name: value.clone() for name, value in model.state_dict().items()})
        if self.values:
            return {"score": self.values[len(self.seen) - 1]}
        error = sum(float((model(batch["x"]) - batch["y"]).square().sum()) for batch in batches)
        return {"score": -error}


def network(*, plain: bool = False) -> nn.Module:
    torch.manual_seed(0)
    if plain:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))


def train(
    folder: Path,
    task: Regression | None = None,
    *,
    batch: int = 4,
    resume: bool = True,
    plain: bool = False,
    val: bool = True,
    seed: int = 0,
    before_step: Callable[[int], None] | None = None,
    fabric: Fabric | None = None,
    **settings: Any,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    model = network(plain=plain)
    config = TrainClassifierConfig(**{"epochs": 4, "batch_size": batch, "lr": 0.05, **settings})
    data = Numbers()
    loaders = {"train": DataLoader(data, batch, sampler=EpochSampler(SAMPLES, seed=seed, shuffle=True))}
    if val:
        loaders["val"] = DataLoader(data, batch, sampler=EpochSampler(SAMPLES, seed=0, shuffle=False))
    history = fit(
        task or Regression(),
        model,
        build_optimiser(model, config, rates={"all": config.lr}, group_of=lambda name: "all"),
        fabric=fabric or setup_fabric(torch.device("cpu"), "fp32"),
        loaders=loaders,
        config=config,
        seed=seed,
        checkpoints=Checkpoints(folder, resume=resume),
        before_step=before_step,
    )
    return model, history


def same(one: nn.Module | dict[str, Tensor], two: nn.Module | dict[str, Tensor]) -> bool:
    first, second = (value.state_dict() if isinstance(value, nn.Module) else value for value in (one, two))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_history_has_a_row_an_epoch_with_means_scores_and_rate(tmp_path):
    task = Regression()
    model, history = train(tmp_path, task, batch=8)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert all(list(row) == ["epoch", "train_loss", "train_size", "val_score", "lr"] for row in history)
    assert history[0]["train_size"] == pytest.approx((8 + 8 + 4) / 3)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert history[-1]["lr"] == 0
    assert not model.training
    assert [progress.step for progress in task.progress] == list(range(12))


def test_a_mean_of_equal_batches_is_that_of_one_larger_batch(tmp_path):
    small, rows = train(tmp_path / "a", batch=2, plain=True, accumulate=4)
    large, expected = train(tmp_path / "b", batch=8, plain=True)
    for one, two in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert [row["lr"] for row in rows] == pytest.approx([row["lr"] for row in expected])
    without, _ = train(tmp_path / "c", batch=2, plain=True)
    assert not torch.allclose(without[0].weight, large[0].weight, atol=1e-3)


def test_clipping_bounds_the_step_and_can_be_left_out(tmp_path):
    clipped, _ = train(tmp_path / "a", plain=True, clip_grad_norm=1e-12, weight_decay=0, lr=1e-6)
    free, _ = train(tmp_path / "b", plain=True, clip_grad_norm=None, weight_decay=0, lr=1e-6)
    start = network(plain=True)
    moved = [float((model[0].weight - start[0].weight).detach().abs().max()) for model in (clipped, free)]
    assert moved[0] < moved[1] / 10


def check_resuming(
    folder: Path, task: Regression, *, error: type[BaseException] = KeyboardInterrupt, **settings: Any
) -> Regression:
    """A run that the task ends goes on to the result of an undisturbed one; gives the task of the rest."""
    undisturbed, rows = train(folder / "a", **settings)
    with pytest.raises(error):
        train(folder / "b", task, **settings)
    torch.manual_seed(12345)
    torch.rand(7)
    rest = Regression()
    resumed, again = train(folder / "b", rest, **settings)
    assert same(resumed, undisturbed)
    assert again == rows
    return rest


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_an_interrupted_run_ends_as_if_nothing_had_happened_by_training_the_missing_epochs(tmp_path, keep, epoch):
    rest = check_resuming(tmp_path, Regression(fail=5 * (epoch - 1) + 2), keep=keep, accumulate=2)
    assert {progress.step // progress.steps_per_epoch for progress in rest.progress} == set(range(epoch - 1, 4))


def test_in_a_long_epoch_states_are_saved_in_between(tmp_path, monkeypatch):
    monkeypatch.setattr("ctm.training.loop.SECONDS_BETWEEN_STATES", 0.0)
    assert len(check_resuming(tmp_path, Regression(fail=8)).progress) == 20 - 8


@pytest.fixture
def sigterm() -> Iterator[None]:
    """SIGTERM as the command line handles it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    end_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Terminated(Regression):
    """The process gets SIGTERM in that batch, counted from 1 over the training, or in that batch of the first val."""

    def __init__(self, *, train: int | None = None, val: int | None = None) -> None:
        super().__init__()
        self._train, self._val = train, val

    def losses(self, model: nn.Module, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        if len(self.progress) + 1 == self._train:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().losses(model, batch, progress)

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float | None]:
        def watched() -> Iterator[Batch]:
            for number, batch in enumerate(batches, start=1):
                if number == self._val:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return super().validate(model, watched())


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize(
    "moment", [{"train": 1}, {"train": 2}, {"train": 5}, {"train": 8}, {"val": 1}, {"val": 5}, {"train": 20}], ids=str
)
def test_sigterm_at_any_moment_saves_a_state_from_which_the_very_same_weights_come(sigterm, tmp_path, moment, keep):
    task = Terminated(**moment)
    rest = check_resuming(tmp_path, task, error=Preempted, keep=keep, accumulate=2)
    assert len(task.progress) + len(rest.progress) == 4 * 5, "a batch was trained twice or left out"


def test_the_loss_scale_of_fp16_is_part_of_the_state(tmp_path):
    """On a CPU, whose autocast knows fp16; the product leaves it to GPUs."""

    def half(scale: float) -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=4)
        return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", device="cpu", scaler=scaler))

    undisturbed, rows = train(tmp_path / "a", plain=True, fabric=half(8.0))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", Regression(fail=10), plain=True, fabric=half(8.0))
    fabric = half(1.0)
    resumed, again = train(tmp_path / "b", plain=True, fabric=fabric)
    assert again == rows
    assert same(resumed, undisturbed)
    assert fabric.strategy.precision.state_dict()["scale"] > 8.0


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_finished_run_is_not_trained_again(tmp_path, keep):
    model, rows = train(tmp_path, keep=keep)
    task = Regression()
    again, same_rows = train(tmp_path, task, keep=keep)
    assert task.progress == []
    assert same_rows == rows
    assert same(again, model)


def test_without_resume_everything_is_trained_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Regression(fail=10))
    task = Regression()
    train(tmp_path, task, resume=False)
    assert task.progress[0].step == 0


@pytest.mark.parametrize(
    ("keep", "scores", "epoch"),
    [
        ("best", (0.1, 0.9, None, 0.8), 1),
        ("best", (0.5, 0.7, 0.7, 0.7), 1),  # of equals the first
        ("best", (None, None, None, None), 3),
        ("last", (0.9, 0.1, 0.1, 0.0), 3),
    ],
)
def test_the_epoch_that_is_asked_for_is_kept(tmp_path, keep, scores, epoch):
    task = Regression(values=scores)
    model, history = train(tmp_path, task, keep=keep)
    assert same(model, task.seen[epoch])
    assert not same(task.seen[1], task.seen[3])
    assert [row["val_score"] for row in history] == list(scores)


def test_the_number_of_each_step_is_told_before_it_is_taken(tmp_path):
    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Regression(fail=10), accumulate=2, before_step=steps.append)
    train(tmp_path, accumulate=2, before_step=steps.append)
    assert steps == list(range(4 * 3))  # five batches an epoch


def test_what_is_done_to_the_gradients_before_a_step_is_stepped_with(tmp_path):
    def without_bias(step: int) -> None:
        layer.bias.grad = None

    class Watched(Regression):
        def losses(self, model: nn.Module, batch: Batch, progress: Progress) -> dict[str, Tensor]:
            nonlocal layer
            layer = model.module[0]
            return super().losses(model, batch, progress)

    layer = nn.Linear(1, 1)
    model, _ = train(tmp_path, Watched(), plain=True, before_step=without_bias)
    start = network(plain=True)
    assert torch.equal(model[0].bias, start[0].bias)
    assert not torch.equal(model[0].weight, start[0].weight)


def test_without_a_score_the_last_epoch_is_kept(tmp_path):
    model, history = train(tmp_path / "a", val=False, keep="best")
    assert same(model, train(tmp_path / "b", val=False, keep="last")[0])
    assert list(history[0]) == ["epoch", "train_loss", "train_size", "lr"]


def test_an_old_best_epoch_is_not_taken_for_one_of_this_run(tmp_path):
    train(tmp_path, Regression(values=(0.9, 0.1, 0.1, 0.0)), keep="best")
    task = Regression(values=(None, None, None, None))
    model, _ = train(tmp_path, task, keep="best", resume=False)
    assert same(model, task.seen[3])


def test_a_loss_that_is_no_number_ends_the_run_and_is_not_checkpointed(tmp_path):
    with pytest.raises(ModelError, match=r"training loss of epoch 2 is nan: lower the learning rates.*precision: fp32"):
        train(tmp_path, Regression(nan=2))
    task = Regression()
    _, history = train(tmp_path, task)
    assert task.progress[0].step == task.progress[0].steps_per_epoch
    assert all(math.isfinite(row["train_loss"]) for row in history)


@pytest.mark.parametrize(
    ("step", "epochs", "value"), [(0, 2, 0), (5, 2, 0.25), (20, 2, 1), (99, 2, 1), (0, 0, 1), (5, 0.5, 1)]
)
def test_a_ramp_rises_over_its_epochs_and_stays_at_one(step, epochs, value):
    assert Progress(step=step, steps_per_epoch=10).ramp(epochs) == pytest.approx(value)


def test_warmup_cannot_outlast_the_training():
    with pytest.raises(ValueError, match=r"warmup_epochs \(3\) is more than epochs \(2\)"):
        TrainingConfig(epochs=2, warmup_epochs=3)
