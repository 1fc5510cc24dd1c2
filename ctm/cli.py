"""The command line: one command a stage, made from its ports, and commands around them."""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import ctm
from ctm.commands.export import export
from ctm.commands.predict import predict
from ctm.data.unpack import MaskFormat
from ctm.errors import CtmError, ParamsError
from ctm.execute import RunOptions, execute, manifest_path
from ctm.kubeflow import Task, decode_nulls
from ctm.params import load_params, load_preset, override_sections, read_config, stage_config, to_yaml
from ctm.pseudomasks.recipes import all_recipes
from ctm.runtime.checkpoint_store import WORKING_FOLDER
from ctm.runtime.context import Device, Launch, Part, available_cores
from ctm.runtime.log import show_log
from ctm.runtime.outputs import write_text
from ctm.runtime.preemption import EXIT_CODE, Preempted, end_on_sigterm
from ctm.stage import Parts, Profile, Ref, Source, Stage
from ctm.stages import JOINS, STAGES
from ctm.sync import dvc_yaml

__all__ = ["app", "main"]

app = typer.Typer(
    name="ctm",
    help="Segmentation masks, a trained segmenter and a report from image-level labels alone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ParamsFile = Annotated[Path, typer.Option("--params", metavar="FILE", help="Parameter file.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="NAME=VALUE", help="Override a parameter (train_classifier.epochs=3); repeatable."),
]

Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that read and decode images.")]

Resume = Literal["auto", "never"]

GOES_ON = "the same command goes on where it was"


def main() -> None:
    """Runs the command line; an error that the user can mend is one message and exit code 1, the end by SIGTERM 143."""
    show_log(logging.INFO if Launch.from_environment().is_first else logging.ERROR)
    end_on_sigterm()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    try:
        app()
    except Preempted as ended:
        typer.echo(f"ended by SIGTERM; {ended}" if str(ended) else "ended by SIGTERM", err=True)
        sys.exit(EXIT_CODE)
    except (CtmError, OSError) as error:
        sys.exit(f"error: {_message(error)}")
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == "ctm":
            raise
        extra = "onnx" if package.startswith("onnx") else "train,data"
        sys.exit(f"error: this command needs {error.name}, which is not installed: pip install 'ctm[{extra}]'")


def _message(error: Exception) -> str:
    """The error's own text; one from a worker process of a data loader comes inside that process's traceback."""
    text = str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{text}. Nothing half-written is left: make room and run the command again."
    return text.rpartition(f"{type(error).__name__}: ")[2] if "Original Traceback" in text else text


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"ctm {ctm.__version__}")
        raise typer.Exit


@app.command(rich_help_panel="Set-up")
def init(
    preset: Annotated[str, typer.Argument(help="Name of a preset; a wrong name lists them all.")],
    overrides: Overrides = [],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="File to write.")] = Path("params.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
) -> None:
    """Write params.yaml from a preset, every value with its meaning."""
    params = load_preset(preset, overrides)
    if output.exists() and not force:
        raise ParamsError(f"{output} exists. Give --force to replace it, or --output to write elsewhere.")
    write_text(output, to_yaml(params))
    typer.echo(f"wrote {output} from preset {preset}")


@app.command(rich_help_panel="Set-up")
def show(params: ParamsFile = Path("params.yaml"), overrides: Overrides = []) -> None:
    """Print the resolved parameters."""
    typer.echo(to_yaml(load_params(params, overrides)), nl=False)


@app.command(rich_help_panel="Set-up")
def describe(
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="A preset instead of a file.")] = None,
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    as_json: Annotated[bool, typer.Option("--json", help="One flat JSON object.")] = False,
) -> None:
    """Size of the classifier that the parameters ask for: parameters, tokens, heads, image and patch size."""
    from ctm.models.describe import describe_model

    chosen = load_preset(preset, overrides) if preset else load_params(params, overrides)
    facts = describe_model(chosen.model, chosen.gates, chosen.dataset)
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        typer.echo("\n".join(f"{name:<14} {value}" for name, value in facts.items()))


@app.command(rich_help_panel="Set-up")
def sync(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if dvc.yaml is not up to date.")] = False,
) -> None:
    """Write dvc.yaml from the stages."""
    outside = not Path("ctm/__init__.py").is_file()
    path, text = Path("dvc.yaml"), dvc_yaml(STAGES.values(), installed=ctm.__version__ if outside else None)
    current = path.read_text(encoding="utf-8") if path.is_file() else None
    if check and current != text:
        raise ParamsError(f"{path} is not what the stages say. Run `ctm sync` and commit the result.")
    if current != text:
        write_text(path, text)
    typer.echo(f"{path} is up to date")


@app.command(rich_help_panel="Data")
def demo_data(
    folder: Annotated[Path, typer.Argument(help="Folder to write; a complete copy there is left as it is.")],
) -> None:
    """Write the demo data set: multispectral land-cover scenes as GeoTIFFs in the DFC2020 layout."""
    from ctm.data.datasets.demo import write_demo

    write_demo(folder)


@app.command(rich_help_panel="Data")
def check_data(
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    raw: Annotated[str | None, typer.Option("--raw", help="Raw data; dataset.root where it is left out.")] = None,
    workers: Workers = available_cores(),
) -> None:
    """Read and check every file of the raw data and write nothing; exit code 1 if preprocess would fail."""
    from ctm.data.check import check_dataset
    from ctm.data.datasets import open_dataset
    from ctm.data.findings import all_problems, findings_lines
    from ctm.runtime.storage import open_tree

    chosen = load_params(params, overrides)
    tree = open_tree(raw or chosen.dataset.root)
    dataset = open_dataset(chosen.dataset, tree)
    found = check_dataset(dataset, tree, workers=workers)
    typer.echo(f"{chosen.dataset.format} in {tree.uri}")
    typer.echo("\n".join(findings_lines(dataset, found, listed=None)))
    if chosen.preprocess.on_error == "fail" and all_problems(dataset, found):
        raise typer.Exit(1)


@app.command(rich_help_panel="Data")
def unpack(
    artifact: Annotated[Path, typer.Argument(help="Folder of shards or of pseudo-masks.")],
    folder: Annotated[Path, typer.Argument(help="New folder for the files.")],
    format: Annotated[
        MaskFormat,
        typer.Option("--format", help="png: palette images; geotiff: with the images' CRS and transform."),
    ] = "png",
) -> None:
    """Write every mask of an artifact as a file that any viewer shows, or that any GIS puts in its place."""
    from ctm.data.unpack import write_masks

    typer.echo(f"wrote {write_masks(artifact, folder, format=format)} masks to {folder}")


@app.command(rich_help_panel="Runs")
def compare(
    shards: Annotated[Path, typer.Option("--shards", metavar="DIR", help="Output shards of preprocess.")],
    pruned: Annotated[Path, typer.Option("--pruned", metavar="DIR", help="Output pruned of prune-heads.")],
    recipes: Annotated[
        list[str],
        typer.Option(
            "--recipe",
            metavar="RECIPE",
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
    device: Annotated[
        Device, typer.Option("--device", help="Where to run; auto takes a GPU if there is one.")
    ] = "auto",
) -> None:
    """Set ways to make pseudo-masks from one classifier side by side: one page, and one file with the figures."""
    from ctm.data.classes import check_same_classes
    from ctm.data.shards import ShardFolder
    from ctm.evaluation import strategies
    from ctm.models.io import load_classifier
    from ctm.training.device import pick_device

    chosen, data = load_params(params, overrides), ShardFolder.open(shards)
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


@app.command(rich_help_panel="Runs")
def gate(
    metrics: Annotated[Path, typer.Option("--metrics", metavar="FILE", help="The run's metrics.")] = STAGES[
        "evaluate"
    ].metrics,
    against: Annotated[
        str | None, typer.Option("--against", metavar="REVISION", help="Compare with the file in this git revision.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE", help="Compare with this file instead of a revision.")
    ] = None,
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    table: Annotated[
        Path | None, typer.Option("--table", metavar="FILE", help="Write what is printed to a file as well.")
    ] = None,
) -> None:
    """Say whether a run is good enough (evaluate.gate); exit code 1 if it is not."""
    from ctm.evaluation.gate import check_gate, gate_table, metrics_at
    from ctm.evaluation.summary import read_metrics

    if against and baseline:
        raise ParamsError("--against and --baseline both name what to compare with: give one of them.")
    wanted, found = load_params(params, overrides).evaluate.gate, read_metrics(metrics)
    before = metrics_at(against, metrics) if against else read_metrics(baseline) if baseline else None
    result = check_gate(found, before, wanted)
    text = gate_table(result, against=against or (baseline.name if baseline else "baseline"))
    typer.echo(text, nl=False)
    if table:
        write_text(table, text)
    if not result.passed:
        raise typer.Exit(1)


@app.command(rich_help_panel="Runs")
def compare_runs(
    report: Annotated[Path, typer.Option("--report", metavar="FILE", help="Where to write the page.")],
    metrics: Annotated[Path, typer.Option("--metrics", metavar="FILE", help="Where to write the figures.")],
    runs: Annotated[
        list[str], typer.Option("--run", metavar="NAME=FILE", help="A run's name and its metrics; repeatable.")
    ] = [],
    columns: Annotated[
        list[str], typer.Option("--column", metavar="NAME", help="A figure to show; repeatable; left out: Table 8's.")
    ] = [],
    names: Annotated[
        str | None, typer.Option("--names", metavar="JSON", help="In Kubeflow: the names of the runs, as a JSON list.")
    ] = None,
    executor_input: Annotated[
        str | None,
        typer.Option("--executor-input", metavar="JSON", help="In Kubeflow: the runs' metrics are its list."),
    ] = None,
) -> None:
    """Set several runs side by side: one page, and one file with the figures of each."""
    from ctm.evaluation import comparison

    task = Task.parse(executor_input) if executor_input else None
    if bool(task) != bool(names) or (task and runs):
        raise ParamsError("give --run NAME=FILE for each run; --names and --executor-input go together, in Kubeflow.")
    found = comparison.listed_runs(names or "[]", task.paths("metrics")) if task else comparison.named_runs(runs)
    chosen = tuple(map(comparison.column, columns))
    figures = comparison.compare_runs(found, columns=chosen)
    if columns and (unknown := comparison.unknown_columns(found, chosen)):
        raise ParamsError(f"no run has the figure {', '.join(unknown)}: see metrics/evaluate.json for the names.")
    write_text(report, comparison.comparison_page(found, columns=chosen))
    write_text(metrics, json.dumps(figures, indent=2) + "\n")
    if task:
        task.write_report(figures, port="table")


def _stage_command(stage: Stage) -> Callable[..., None]:
    """A function whose signature typer turns into the stage's options."""

    def command(**given: Any) -> None:
        config = _read_stage_config(stage, given["params"], given["overrides"], given["config"])
        task = Task.parse(given["executor_input"]) if given["executor_input"] else None
        launch = Launch.from_environment()
        if task:
            task.check_code()
        options = RunOptions(
            metrics=given["metrics"],
            manifest=given["manifest"],
            checkpoints=_own_checkpoints(given["checkpoints"], given["overrides"] if given["config"] else []),
            device=given["device"],
            workers=given["workers"],
            resume=given["resume"] == "auto",
            part=_read_part(given.get("part", "1/1")),
            labels=dict(map(_read_label, given["labels"])),
            expected=task.expected(stage) if task else {},
            launch=launch,
        )
        if empty := [name for name, source in stage.inputs.items() if isinstance(source, Source) and not given[name]]:
            raise ParamsError(f"--{empty[0]} is empty: give a folder or s3://bucket/prefix.")
        inputs = {name: given[name] or (task.paths(name) if task else []) for name in stage.inputs}
        outputs = {name: given[name] for name in stage.outputs}
        try:
            execute(stage, config, inputs=inputs, outputs=outputs, options=options)
        except Preempted as ended:
            raise Preempted(GOES_ON if stage.resumable and options.resume else "") from ended
        if task and launch.is_first:
            task.finish(stage, metrics=options.metrics, manifest=options.manifest or manifest_path(options.metrics))

    command.__signature__ = inspect.Signature(_stage_parameters(stage))  # type: ignore[attr-defined]  # for typer
    command.__doc__ = stage.summary
    return command


def _read_stage_config(stage: Stage, params: Path, overrides: list[str], config: str | None) -> Any:
    overrides = [override for override in overrides if override]  # a pipeline without one hands in an empty text
    if config is None:
        return stage_config(load_params(params, overrides), stage.config)
    try:
        values = decode_nulls(json.loads(config))
    except json.JSONDecodeError as error:
        raise ParamsError(f"--config is no valid JSON: {error}") from None
    if isinstance(values, dict):
        values = override_sections(values, overrides, stage.config)
    return read_config(values, stage.config, origin="--config")


def _own_checkpoints(place: str, overrides: list[str]) -> str:
    """Tasks of a sweep may be the very same run, side by side: each has a place of its own."""
    text = "\n".join(override for override in overrides if override)
    return f"{place.rstrip('/')}/{hashlib.sha256(text.encode()).hexdigest()[:8]}" if text else place


def _read_part(text: str) -> Part:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ParamsError(f"--part {text}: expected K/N with 1 <= K <= N, such as 2/4.")
    return Part(int(number), int(count))


def _read_label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ParamsError(f"--label {text}: expected NAME=VALUE, such as run=first.")
    return name, value


def _stage_parameters(stage: Stage) -> list[inspect.Parameter]:
    def option(name: str, annotation: Any, default: Any, **about: Any) -> inspect.Parameter:
        flag = f"--{about.pop('flag', name).replace('_', '-')}"
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[annotation, typer.Option(flag, **about)],
            default=default,
        )

    def input_option(name: str, source: Source | Ref | Parts) -> inspect.Parameter:
        required = inspect.Parameter.empty
        if isinstance(source, Source):
            about = f"Raw data: a folder or s3://bucket/prefix; parameter {source.param} of the pipeline."
            return option(name, str, required, help=about)
        about = f"Output {source.port} of {source.stage.replace('_', '-')}"
        if isinstance(source, Parts):
            return option(name, list[Path], [], help=f"{about}, one for each part, in their order.")
        return option(name, Path, required, help=f"{about}.")

    sections = ", ".join(stage.config.model_fields)
    workers = available_cores() if stage.profile is Profile.CPU else None
    about_workers = "Processes that decode images; 0: the stage's own"
    if stage.profile is Profile.GPU:
        about_workers += "; left out: none on the CPU, beside a GPU its share of the cores, at most 8"
    inputs = [input_option(name, source) for name, source in stage.inputs.items()]
    outputs = [
        option(name, Path, Path(output.path), help=f"Where to write the {output.kind.value}.")
        for name, output in stage.outputs.items()
    ]
    part = [option("part", str, "1/1", metavar="K/N", help="Only the K-th of N parts of the samples.")]
    return [
        *inputs,
        *outputs,
        option("metrics", Path, stage.metrics, help="Where to write the metrics."),
        option("manifest", Path | None, None, help="Where to write the manifest; left out: beside the metrics."),
        option("params", Path, Path("params.yaml"), help=f"Parameter file; this stage reads {sections}."),
        option("overrides", list[str], [], flag="set", metavar="NAME=VALUE", help="Override a parameter; repeatable."),
        option("config", str | None, None, metavar="JSON", help="The stage's sections as JSON instead of --params."),
        *(part if stage.divisible else []),
        option("device", Device, "auto", help="Where to run; auto takes the GPU where there is one."),
        option("workers", int | None, workers, help=f"{about_workers}.", min=0),
        option(
            "checkpoints",
            str,
            str(WORKING_FOLDER),
            metavar="PLACE",
            help="Folder or s3://bucket/prefix for the state of unfinished trainings.",
        ),
        option(
            "resume", Resume, "auto", help="auto continues an interrupted run of the very same stage, code and inputs."
        ),
        option("labels", list[str], [], flag="label", metavar="NAME=VALUE", help="Recorded in the manifest."),
        option("executor_input", str | None, None, metavar="JSON", help="What Kubeflow tells a task of itself."),
    ]


for _stage in STAGES.values():
    app.command(_stage.command, rich_help_panel="Stages")(_stage_command(_stage))
for _stage in JOINS.values():
    app.command(_stage.command, rich_help_panel="Stages in parts")(_stage_command(_stage))
for _command in (predict, export):
    app.command(rich_help_panel="Use")(_command)


if __name__ == "__main__":
    main()
