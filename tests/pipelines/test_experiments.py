"""Which experiments belong together, and what they are called."""

from __future__ import annotations

from typing import Any

from pipelines.experiments import Experiment, closes_heads, grouped, rows, shared_values
from pipelines.table8 import LAMBDA


def experiment(name: str, *, state: str = "success", **params: Any) -> Experiment:
    return Experiment(name, state, params, {"name": name}, None)


def names(*experiments: Experiment) -> dict[str, list[str]]:
    """The experiments of every group."""
    return {name: [one.name for one in group] for name, group in grouped(experiments)}


def test_runs_are_named_by_the_parameters_in_which_they_differ():
    first, second = experiment("s-1", lr=0.1, seed=0, flip="none"), experiment("s-2", lr=0.1, seed=1, flip=None)
    assert names(first, second) == {"seed=0, flip=none": ["s-1"], "seed=1, flip=null": ["s-2"]}


def test_runs_that_differ_only_in_their_seed_are_one_group():
    found = names(*(experiment(f"s-{lr}{seed}", lr=lr, seed=seed) for lr in (1, 2) for seed in (0, 1)))
    assert found == {"lr=1": ["s-10", "s-11"], "lr=2": ["s-20", "s-21"]}
    assert names(experiment("s-1", lr=1, seed=0), experiment("s-2", lr=1, seed=5)) == {"s-1": ["s-1", "s-2"]}


def test_runs_of_equal_parameters_keep_apart():
    found = names(experiment("s-1", lr=1), experiment("s-2", lr=1), experiment("s-3", lr=2))
    assert found == {"lr=1": ["s-1"], "lr=1 (s-2)": ["s-2"], "lr=2": ["s-3"]}
    again = names(*(experiment(f"s-{n}", lr=1, seed=seed) for n, seed in enumerate((0, 1, 0))))
    assert list(again.values()) == [["s-0", "s-1"], ["s-2"]]
    assert names(experiment("s-1", lr=1)) == {"s-1": ["s-1"]}


def ablation() -> list[Experiment]:
    """Four settings, three of which change one thing, with two seeds."""
    full = {"mask": 0.5, "token": True, "weight": 0.01}
    settings = [full, full | {"mask": 0}, full | {"token": False}, full | {"weight": 0}]
    return [experiment(f"s-{n}-{seed}", seed=seed, **s) for n, s in enumerate(settings) for seed in (0, 1)]


def test_in_an_ablation_a_name_says_what_is_changed():
    assert list(names(*ablation())) == ["unchanged", "mask=0", "token=false", "weight=0"]
    assert shared_values(ablation()) == {"mask": "0.5", "token": "true", "weight": "0.01"}


def test_in_a_grid_every_value_is_said():
    grid = [experiment(f"{a}{b}", a=a, b=b, seed=0) for a in (0, 1) for b in (0, 1, 2)]
    assert list(names(*grid))[:2] == ["a=0, b=0", "a=0, b=1"]
    assert shared_values(grid) == {}
    assert shared_values([experiment("s", a=1)]) == {}


def test_a_run_that_failed_is_in_no_row_and_changes_no_name():
    runs = [*ablation(), experiment("x", state="failed", seed=2, mask=0, token=True, weight=0.01)]
    found = rows([runs[0], experiment("y", state="failed", seed=1, mask=0.5, token=True, weight=0.01), *runs[2:]])
    assert {row.name: len(row.runs) for row in found} == {"unchanged": 1, "mask=0": 2, "token=false": 2, "weight=0": 2}
    assert rows([experiment("s-1", state="queued", lr=1)]) == []


def test_a_curve_is_for_sweeps_of_what_closes_heads():
    pruned = [experiment("1", **{LAMBDA: 0, "seed": 0}), experiment("2", **{LAMBDA: 1, "seed": 1})]
    assert closes_heads(pruned)
    assert not closes_heads([*pruned, experiment("3", **{LAMBDA: 0, "train_classifier.sparsity": 0.5})])
    assert not closes_heads([*pruned, experiment("3", **{LAMBDA: 1, "model.depth": 3})])
    assert not closes_heads([experiment("1", seed=0), experiment("2", seed=1)])
