"""The pipeline: its stages in the order in which they run. DVC, containers and Kubeflow are derived from this table."""

from __future__ import annotations

from ctm.stage import Stage
from ctm.stages import (
    evaluate,
    extract_pseudomasks,
    merge_pseudomasks,
    preprocess,
    prune_heads,
    train_classifier,
    train_segmenter,
)

__all__ = ["JOINS", "STAGES"]

STAGES: dict[str, Stage] = {
    module.STAGE.name: module.STAGE
    for module in (preprocess, train_classifier, prune_heads, extract_pseudomasks, train_segmenter, evaluate)
}
"""The stages by name, in the order in which they run."""

JOINS: dict[str, Stage] = {merge_pseudomasks.STAGE.name: merge_pseudomasks.STAGE}
"""Stages that join what a divisible stage has written in parts; only fan-out pipelines have them."""
