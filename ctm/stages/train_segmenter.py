"""Stage train_segmenter: a segmentation network learns from the pseudo-masks alone."""

from __future__ import annotations

from pathlib import Path

from ctm.models.config import ModelConfig, height_width
from ctm.runtime.context import Context, Precision
from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Stage
from ctm.training.config import TrainSegmenterConfig

__all__ = ["STAGE"]


class TrainSegmenterStageConfig(Config):
    """What train_segmenter reads of params.yaml."""

    seed: int
    precision: Precision
    model: ModelConfig
    train_segmenter: TrainSegmenterConfig


def run(
    config: TrainSegmenterStageConfig, context: Context, *, shards: Path, pseudomasks: Path, segmenter: Path
) -> Metrics:
    """Trains, writes the model and ``history.csv``; returns the kept epoch's row of the history.

    A segmenter that has learned the truth is marked as such in ``model.json`` and in the metrics.
    """
    from ctm.data.shards import ShardFolder
    from ctm.models.segmenter import save_segmenter
    from ctm.training.history import kept_row, write_history
    from ctm.training.segmenter import train_segmenter

    data = ShardFolder.open(shards, kind="images")
    settings = config.train_segmenter
    model, spec, inputs, history = train_segmenter(
        data,
        ShardFolder.open(pseudomasks, kind="masks"),
        image_size=height_width(settings.image_size or config.model.image_size),
        training=settings,
        seed=config.seed,
        precision=config.precision,
        context=context,
    )
    if context.launch.is_first:
        save_segmenter(segmenter, model, spec, classes=data.classes, inputs=inputs, supervision=settings.supervision)
        write_history(segmenter / "history.csv", history)
    last = [row for row in history if row.get("round") == history[-1].get("round")]
    row = kept_row(last, keep=settings.keep, monitor="val_pseudo_miou")
    return row if settings.supervision == "pseudomasks" else {**row, "supervision": settings.supervision}


STAGE = Stage(
    name="train_segmenter",
    summary="Train a segmentation network on the pseudo-masks alone.",
    config=TrainSegmenterStageConfig,
    run=run,
    inputs={"shards": Ref("preprocess", "shards"), "pseudomasks": Ref("extract_pseudomasks", "pseudomasks")},
    outputs={
        "segmenter": Output(
            Kind.MODEL,
            "artifacts/segmenter",
            plots={"history.csv": {"x": "epoch", "y": ["train_loss", "val_pseudo_miou"]}},
        )
    },
    profile=Profile.GPU,
    distributed=True,
    resumable=True,
)
