"""The sweep of the paper's Table 8, which pipelines and commands have by default."""

from __future__ import annotations

__all__ = ["GRID", "LAMBDA", "RUNS"]

LAMBDA = "train_classifier.pruning_weight"
"""Lambda, the weight of the head gates."""

VALUES = ("0", "0.001", "0.01", "0.1")

RUNS = [f"{LAMBDA}={value}" for value in VALUES]
"""One override a run, as Kubeflow takes them."""

GRID = f"{LAMBDA}={','.join(VALUES)}"
"""All values in one text, as DVC takes them."""
