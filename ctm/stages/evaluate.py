"""Stage evaluate: every score against the truth, where there is one, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctm.data.config import DatasetConfig, PreprocessConfig
from ctm.evaluation.config import EvaluateConfig
from ctm.models.config import GatesConfig, ModelConfig, PruneHeadsConfig
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.recipes import recipe_config
from ctm.runtime.context import Context, Precision
from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Stage
from ctm.training.config import TrainClassifierConfig, TrainSegmenterConfig

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ctm.data.inputs import InputSpec
    from ctm.data.shards import ShardFolder
    from ctm.evaluation.scoring import Mask
    from ctm.models.class_token_vit import ClassTokenViT

__all__ = ["STAGE"]

BRIEF = ("miou", "pixel_accuracy", "coverage")
"""Scores of what the pseudo-masks are compared with."""


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
    from ctm.data.classes import check_same_classes
    from ctm.data.shards import ShardFolder
    from ctm.evaluation import page
    from ctm.evaluation.confusion import confusion_json, confusion_table
    from ctm.evaluation.report import ReportData, render_report
    from ctm.evaluation.scoring import count_masks, score_classifier, score_masks, segment
    from ctm.models.io import load_classifier
    from ctm.models.segmenter import load_segmenter, read_supervision
    from ctm.pseudomasks.parts import CHOSEN, TOKENS, check_settings
    from ctm.pseudomasks.samples import spread
    from ctm.training.device import decoding_workers, pick_device
    from ctm.training.history import read_history

    device = pick_device(context.device)
    work: dict[str, Any] = {
        "device": device,
        "batch_size": config.evaluate.batch_size,
        "workers": decoding_workers(context, device),
    }
    data, pseudo = ShardFolder.open(shards), ShardFolder.open(pseudomasks)
    if pseudo.index.about:
        check_settings(pseudo, config.extract_pseudomasks.model_dump(mode="json"))
    chosen = pseudo.index.about.get(CHOSEN)
    extraction = recipe_config(chosen["recipe"], config.extract_pseudomasks) if chosen else config.extract_pseudomasks
    gated, classes, inputs = load_classifier(classifier)
    small, pruned_classes, _ = load_classifier(pruned)
    network, segmenter_classes, network_inputs = load_segmenter(segmenter)
    check_same_classes(
        shards=data.classes,
        classifier=classes,
        pruned=pruned_classes,
        pseudomasks=pseudo.classes,
        segmenter=segmenter_classes,
    )
    histories = [read_history(folder / "history.csv") for folder in (classifier, segmenter)]
    val = data.split("val")
    shown = spread(len(val), config.evaluate.panels)
    predictions: dict[int, NDArray[np.uint8]] = {}
    segmented = count_masks(
        _keep(segment(network, val, network_inputs, **work), shown, kept=predictions), val, classes=classes
    )
    counts = segmented.matrix[:, :-1]  # a segmenter decides on every pixel: the last column is empty

    metrics: Metrics = {
        "classifier": {"val": score_classifier(gated, val, inputs, classes=classes, **work)},
        "heads": _heads(small.kept_heads, small.original_heads),
        "pseudomasks": {
            name: scores for split in pseudo.splits for name, scores in _score_pseudomasks(pseudo, data, split).items()
        },
        "segmenter": {"val": segmented.compute(), "supervision": read_supervision(segmenter)},
    }
    if (tuned := data.tune_samples) and metrics["segmenter"]["supervision"] != "truth":
        masks = segment(network, data.split("train"), network_inputs, samples=tuned, **work)
        metrics["segmenter"]["tune"] = score_masks(masks, data.split("train"), classes=classes)
    metrics |= {name: pseudo.index.about[name] for name in (CHOSEN, TOKENS) if name in pseudo.index.about}
    if "train" in pseudo.splits:
        for entry in config.evaluate.compare:
            compared = (
                {"train": dict.fromkeys(BRIEF)}  # without truth there is nothing to compare by
                if metrics["pseudomasks"]["train"]["miou"] is None
                else _compare(entry, small, data, inputs, config=config, device=device, workers=work["workers"])
            )
            for name, scores in compared.items():
                metrics["pseudomasks"][name].setdefault("compare", {})[entry] = scores
    pictured: dict[str, Any] = {"model": small, "inputs": inputs, "classes": classes, "config": extraction}
    sheet = page.compare_sheet(
        config.evaluate.compare,
        data,
        panels=config.evaluate.panels,
        pseudomasks=pseudo,
        device=device,
        **pictured,
    )
    panels = page.make_panels(
        val,
        shown,
        pseudomasks=pseudo,
        predictions=predictions,
        device=device,
        **pictured,
    )
    name = Path(config.dataset.root).name
    text = render_report(
        ReportData(
            title=f"ctm report: {name}",
            dataset=name,
            format=config.dataset.format,
            classes=classes,
            samples={split: len(data.split(split)) for split in data.splits},
            label_source=extraction.label_source,
            headline=page.headlines(metrics),
            compare=page.compare_rows(metrics, extraction),
            sheet=sheet,
            views=page.views_words(extraction),
            tuned="score" in metrics["pseudomasks"],
            saw_truth=page.segmenter_saw_truth(metrics),
            choice=page.choice_words(metrics),
            per_class=page.class_rows(metrics, classes),
            confusion=confusion_table(counts, classes.names),
            panels=panels,
            gates=[[int(head in kept) for head in range(small.original_heads)] for kept in small.kept_heads],
            classifier_history=histories[0],
            segmenter_history=histories[1],
            configuration=config.model_dump(mode="json"),
            notes=page.notes(metrics),
            provenance=page.provenance(config.seed, models=(gated, small, network)),
        )
    )
    report.write_text(text, encoding="utf-8")
    confusion.write_text(confusion_json(counts, classes.names), encoding="utf-8")
    return metrics


def _score_pseudomasks(pseudo: ShardFolder, data: ShardFolder, name: str) -> dict[str, Metrics]:
    """Scores of the written pseudo-masks of a split and its lists, and how many samples had no candidate class."""
    from ctm.evaluation.scoring import score_lists

    masks, images = pseudo.split(name), data.split(name)
    found = ((images.index_of(key), masks.mask(index, "png")) for index, key in enumerate(masks.keys))
    scores = score_lists(found, images, classes=data.classes, tune=data.tune)
    scores[name]["empty"] = int((~masks.labels.any(axis=1)).sum())
    return scores


def _compare(
    entry: str,
    model: ClassTokenViT,
    data: ShardFolder,
    inputs: InputSpec,
    *,
    config: EvaluateStageConfig,
    device: torch.device,
    workers: int,
) -> dict[str, Metrics]:
    """Scores of the train split's masks made in another way, of all and by list."""
    from ctm.evaluation.compare import compared_masks
    from ctm.evaluation.scoring import score_lists

    train = data.split("train")
    masks = compared_masks(
        entry,
        model,
        train,
        inputs,
        classes=data.classes,
        config=config.extract_pseudomasks,
        seed=config.seed,
        device=device,
        workers=workers,
    )
    found = score_lists(masks, train, classes=data.classes, tune=data.tune)
    return {name: {figure: scores[figure] for figure in BRIEF} for name, scores in found.items()}


def _keep(masks: Iterable[Mask], wanted: Container[int], *, kept: dict[int, NDArray[np.uint8]]) -> Iterator[Mask]:
    """Passes masks on and keeps the wanted ones for the report."""
    for index, mask in masks:
        if index in wanted:
            kept[index] = mask
        yield index, mask


def _heads(kept_heads: list[list[int]], heads: int) -> Metrics:
    kept, total = sum(map(len, kept_heads)), heads * len(kept_heads)
    return {"sparsity": 1 - kept / total, "kept": kept, "total": total}


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
)
