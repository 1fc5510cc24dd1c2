"""Stage evaluate: every score against the truth, where there is one, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctm.data.config import DatasetConfig, PreprocessConfig
from ctm.evaluation.config import EvaluateConfig
from ctm.models.config import GatesConfig, ModelConfig, PruneHeadsConfig
from ctm.pseudomasks.config import ExtractConfig
from ctm.runtime.context import Context, Precision
from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Stage
from ctm.training.config import TrainClassifierConfig, TrainSegmenterConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from ctm.evaluation.finished_run import FinishedRun, Scores

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
    confusion: Path,
) -> Metrics:
    """Scores classifier, pseudo-masks, segmenter and what they are compared with; writes report and confusions."""
    from ctm.evaluation.confusion import confusion_json
    from ctm.evaluation.finished_run import open_run, score_run
    from ctm.training.device import decoding_workers, pick_device
    from ctm.training.history import read_history

    device = pick_device(context.device)
    finished = open_run(
        config.extract_pseudomasks,
        shards=shards,
        classifier=classifier,
        pruned=pruned,
        pseudomasks=pseudomasks,
        segmenter=segmenter,
    )
    histories = [read_history(folder / "history.csv") for folder in (classifier, segmenter)]
    workers = decoding_workers(context, device)
    scores = score_run(finished, config.evaluate, seed=config.seed, device=device, workers=workers)
    report.write_text(_page(config, finished, scores, histories, device=device), encoding="utf-8")
    confusion.write_text(confusion_json(scores.confusion, finished.classes.names), encoding="utf-8")
    return scores.metrics


def _page(
    config: EvaluateStageConfig,
    finished: FinishedRun,
    scores: Scores,
    histories: Sequence[Sequence[Mapping[str, object]]],
    *,
    device: torch.device,
) -> str:
    """The report as one HTML file: figures, pictures, and the parameters that they come from."""
    from ctm.evaluation import page
    from ctm.evaluation.confusion import confusion_table
    from ctm.evaluation.report import ReportData, render_report

    name, metrics, classes, pruned = Path(config.dataset.root).name, scores.metrics, finished.classes, finished.pruned
    pictured: dict[str, Any] = {
        "model": pruned,
        "inputs": finished.inputs,
        "classes": classes,
        "config": finished.extraction,
        "pseudomasks": finished.pseudomasks,
        "device": device,
    }
    shown = page.make_panels(
        finished.data.split("val"), list(scores.predictions), predictions=scores.predictions, **pictured
    )
    return render_report(
        ReportData(
            title=f"ctm report: {name}",
            dataset=name,
            format=config.dataset.format,
            classes=classes,
            samples={split: len(finished.data.split(split)) for split in finished.data.splits},
            label_source=finished.extraction.label_source,
            headline=page.headlines(metrics),
            compare=page.compare_rows(metrics, finished.extraction),
            sheet=page.compare_sheet(config.evaluate.compare, finished.data, panels=config.evaluate.panels, **pictured),
            views=page.views_words(finished.extraction),
            tuned="score" in metrics["pseudomasks"],
            saw_truth=page.segmenter_saw_truth(metrics),
            choice=page.choice_words(metrics),
            per_class=page.class_rows(metrics, classes),
            confusion=confusion_table(scores.confusion, classes.names),
            panels=shown,
            gates=[[int(head in kept) for head in range(pruned.original_heads)] for kept in pruned.kept_heads],
            classifier_history=histories[0],
            segmenter_history=histories[1],
            configuration=config.model_dump(mode="json"),
            notes=page.notes(metrics),
            provenance=page.provenance(config.seed, models=(finished.gated, pruned, finished.segmenter)),
        )
    )


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
    outputs={
        "report": Output(Kind.REPORT, "report/index.html"),
        "confusion": Output(Kind.CONFUSION, "report/confusion.json"),
    },
    profile=Profile.GPU,
    shown=("classifier.val.map", "pseudomasks.train.miou", "segmenter.val.miou"),
)
