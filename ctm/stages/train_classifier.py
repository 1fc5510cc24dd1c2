"""Stage train_classifier: the class-token transformer with head gates, on image-level labels."""

from __future__ import annotations

from pathlib import Path

from ctm.models.config import GatesConfig, ModelConfig
from ctm.runtime.context import Context, Precision
from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Stage
from ctm.training.config import TrainClassifierConfig

__all__ = ["STAGE"]


class TrainClassifierStageConfig(Config):
    """What train_classifier reads of params.yaml."""

    seed: int
    precision: Precision
    model: ModelConfig
    gates: GatesConfig
    train_classifier: TrainClassifierConfig


def run(config: TrainClassifierStageConfig, context: Context, *, shards: Path, classifier: Path) -> Metrics:
    """Trains, writes the model with its gates and ``history.csv``; returns the kept epoch's row of the history."""
    from ctm.data.shards import ShardFolder
    from ctm.models.io import save_classifier
    from ctm.training.classifier import train_classifier
    from ctm.training.history import kept_row, write_history

    data = ShardFolder.open(shards, kind="images")
    model, inputs, history = train_classifier(
        data,
        model=config.model,
        gates=config.gates,
        training=config.train_classifier,
        seed=config.seed,
        precision=config.precision,
        context=context,
    )
    if context.launch.is_first:
        save_classifier(classifier, model, classes=data.classes, inputs=inputs)
        write_history(classifier / "history.csv", history)
    return kept_row(history, keep=config.train_classifier.keep, monitor="val_map")


STAGE = Stage(
    name="train_classifier",
    summary="Train the class-token transformer and its head gates on image-level labels.",
    config=TrainClassifierStageConfig,
    run=run,
    inputs={"shards": Ref("preprocess", "shards")},
    outputs={
        "classifier": Output(
            Kind.MODEL,
            "artifacts/classifier",
            plots={
                "history.csv": {
                    "x": "epoch",
                    "y": ["train_bce", "train_bce_unmasked", "val_loss", "val_map", "val_chance_map"],
                }
            },
        )
    },
    profile=Profile.GPU,
    distributed=True,
    resumable=True,
)
