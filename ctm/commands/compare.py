"""``ctm compare``: ways to make pseudo-masks from one classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ctm.commands.options import DeviceOption, Overrides, ParamsFile
from ctm.params import load_params
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.recipes import all_recipes
from ctm.runtime.outputs import check_no_folder, write_text

__all__ = ["compare"]


def _complete_recipe(incomplete: str) -> list[str]:
    known = all_recipes(patch_head=True, further=ExtractConfig().auto)
    return [recipe for recipe in known if recipe.startswith(incomplete)]


def compare(
    shards: Annotated[Path, typer.Option("--shards", metavar="DIR", help="Output shards of preprocess.")],
    pruned: Annotated[Path, typer.Option("--pruned", metavar="DIR", help="Output pruned of prune-heads.")],
    recipes: Annotated[
        list[str],
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            autocompletion=_complete_recipe,
            help="strategy[+assignment][+refinement...]; repeatable. Left out: every strategy that the classifier can "
            "do, without and with affinity, and the recipes that strategy auto tries.",
        ),
    ] = [],
    split: Annotated[
        str, typer.Option("--split", help="Split of the images; tune: the train images of splits/tune.txt.")
    ] = "train",
    images: Annotated[int, typer.Option("--images", min=1, help="How many images, evenly spread over it.")] = 64,
    report: Annotated[Path, typer.Option("--report", metavar="FILE", help="Where to write the page.")] = Path(
        "report/compare.html"
    ),
    metrics: Annotated[Path, typer.Option("--metrics", metavar="FILE", help="Where to write the figures.")] = Path(
        "metrics/compare.json"
    ),
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    device: DeviceOption = "auto",
) -> None:
    """Set ways to make pseudo-masks from one classifier side by side: one page, and one file with the figures."""
    from ctm.data.classes import check_same_classes
    from ctm.data.shards import ShardFolder
    from ctm.evaluation import strategies
    from ctm.models.io import load_classifier
    from ctm.training.device import pick_device

    check_no_folder(report, metrics)
    chosen, data = load_params(params, overrides), ShardFolder.open(shards, kind="images")
    model, classes, inputs = load_classifier(pruned)
    check_same_classes(shards=data.classes, pruned=classes)
    samples, indices = strategies.pick_samples(data, split, images)
    found = strategies.compare_strategies(
        recipes or all_recipes(patch_head=model.config.patch_head, further=chosen.extract_pseudomasks.auto),
        model,
        samples,
        inputs,
        classes=classes,
        config=chosen.extract_pseudomasks,
        indices=indices,
        panels=chosen.evaluate.panels,
        seed=chosen.seed,
        device=pick_device(device),
    )
    page = strategies.strategies_page(
        found,
        dataset=Path(chosen.dataset.root).name,
        split=split,
        classes=classes,
        config=chosen.extract_pseudomasks,
        seed=chosen.seed,
    )
    write_text(report, page)
    write_text(metrics, json.dumps({"split": split, **found.metrics}, indent=2) + "\n")
    typer.echo(f"wrote {report} and {metrics}; highest label-free score: {found.best}")
