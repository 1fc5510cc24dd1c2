"""Stage evaluate: every score against the truth, where there is one, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctm.data.config import DatasetConfig, PreprocessConfig
from ctm.evaluation.config import EvaluateConfig
from ctm.models.config import GatesConfig, ModelConfig, PruneHeadsConfig
from ctm.pseudomasks.config import ExtractConfig
from ctm.runtime.context import Context, Precision
from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Stage
from ctm.training.config import TrainClassifierConfig, TrainSegmenterConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctm.data.shards import ShardFolder
    from ctm.evaluation.scoring import Mask

__all__ = ["STAGE"]


class EvaluateStageConfig(Config):
    """What evaluate reads of params.yaml: everything, since the report shows it."""

    seed: int
    precision: Precision
    dataset: DatasetConfig
    preprocess: PreprocessConfig
    model: ModelConfig
    gates: GatesConfig
    train_classifier: TrainClassifierConfig
    prune_heads: PruneHeadsConfig
    extract_pseudomasks: ExtractConfig
    train_segmenter: TrainSegmenterConfig
    evaluate: EvaluateConfig


def run(
    config: EvaluateStageConfig,
    context: Context,
    *,
    shards: Path,
    classifier: Path,
    pruned: Path,
    pseudomasks: Path,
    segmenter: Path,
    report: Path,
) -> Metrics:
    """Scores classifier, pseudo-masks, segmenter and what they are compared with; writes the report."""
    from ctm.data.shards import ShardFolder
    from ctm.evaluation import page
    from ctm.evaluation.compare import compared_masks
    from ctm.evaluation.report import ReportData, render_report
    from ctm.evaluation.scoring import score_classifier, score_masks, segment
    from ctm.models.io import load_classifier
    from ctm.models.segmenter import load_segmenter
    from ctm.training.device import pick_device
    from ctm.training.history import read_history

    device, settings, extraction = pick_device(context.device), config.evaluate, config.extract_pseudomasks
    data, pseudo = ShardFolder.open(shards), ShardFolder.open(pseudomasks)
    gated, classes, inputs = load_classifier(classifier)
    small, _, _ = load_classifier(pruned)
    network, _, network_inputs = load_segmenter(segmenter)
    val, train = data.split("val"), data.split("train")

    metrics: Metrics = {
        "classifier": {
            "val": score_classifier(
                gated,
                val,
                inputs,
                classes=classes,
                device=device,
                batch_size=settings.batch_size,
                workers=context.workers,
            )
        },
        "heads": _heads(small.kept_heads, small.original_heads),
        "pseudomasks": {
            name: {
                **score_masks(_masks(pseudo, data, name), data.split(name), classes=classes),
                "empty": _empty(pseudo, name),
            }
            for name in pseudo.splits
        },
    }
    if "train" in pseudo.splits:
        metrics["pseudomasks"]["train"]["compare"] = {
            entry: _brief(
                score_masks(
                    compared_masks(
                        entry,
                        small,
                        train,
                        inputs,
                        classes=classes,
                        config=extraction,
                        seed=config.seed,
                        device=device,
                        workers=context.workers,
                    ),
                    train,
                    classes=classes,
                )
            )
            for entry in settings.compare
        }
    shown = page.choose_samples(val, settings.panels)
    predictions = {}

    def predicted() -> Iterator[Mask]:
        for index, mask in segment(
            network, val, network_inputs, device=device, batch_size=settings.batch_size, workers=context.workers
        ):
            if index in shown:
                predictions[index] = mask
            yield index, mask

    metrics["segmenter"] = {"val": score_masks(predicted(), val, classes=classes)}
    text = render_report(
        ReportData(
            title=f"ctm report: {Path(config.dataset.root).name}",
            dataset=Path(config.dataset.root).name,
            format=config.dataset.format,
            classes=classes,
            samples={name: len(data.split(name)) for name in data.splits},
            label_source=extraction.label_source,
            headline=page.headlines(metrics),
            compare=page.compare_rows(metrics, extraction),
            per_class=page.class_rows(metrics, classes),
            panels=page.make_panels(
                val,
                shown,
                model=small,
                inputs=inputs,
                classes=classes,
                config=extraction,
                pseudomasks=pseudo,
                predictions=predictions,
                device=device,
            ),
            gates=[[int(head in kept) for head in range(small.original_heads)] for kept in small.kept_heads],
            classifier_history=read_history(classifier / "history.csv"),
            segmenter_history=read_history(segmenter / "history.csv"),
            configuration=config.model_dump(mode="json"),
            notes=page.notes(metrics),
            provenance=page.provenance(config.seed, models=(gated, small, network)),
        )
    )
    report.write_text(text, encoding="utf-8")
    return metrics


def _heads(kept_heads: list[list[int]], heads: int) -> Metrics:
    kept, total = sum(map(len, kept_heads)), heads * len(kept_heads)
    return {"sparsity": 1 - kept / total, "kept": kept, "total": total}


def _masks(pseudo: ShardFolder, data: ShardFolder, name: str) -> Iterator[Mask]:
    """The written pseudo-masks, with the index of their sample in ``data``."""
    masks, images = pseudo.split(name), data.split(name)
    for index, key in enumerate(masks.keys):
        yield images.index_of(key), masks.mask(index, "png")


def _empty(pseudo: ShardFolder, name: str) -> int:
    """How many samples had no candidate class."""
    return int((~pseudo.split(name).labels.any(axis=1)).sum())


def _brief(scores: Metrics) -> Metrics:
    return {name: scores[name] for name in ("miou", "pixel_accuracy", "coverage")}


STAGE = Stage(
    name="evaluate",
    summary="Score everything against the truth, where there is one, and write the report.",
    config=EvaluateStageConfig,
    run=run,
    inputs={
        "shards": Ref("preprocess", "shards"),
        "classifier": Ref("train_classifier", "classifier"),
        "pruned": Ref("prune_heads", "pruned"),
        "pseudomasks": Ref("extract_pseudomasks", "pseudomasks"),
        "segmenter": Ref("train_segmenter", "segmenter"),
    },
    outputs={"report": Output(Kind.REPORT, "report/index.html")},
    profile=Profile.GPU,
)
