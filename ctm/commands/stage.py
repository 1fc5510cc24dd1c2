"""The command of a stage, made from its definition: an option for each port, and those that every stage has."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ctm.commands.options import DeviceOption, override_option
from ctm.commands.parameter_help import stage_parameters
from ctm.errors import ParamsError
from ctm.execute import RunOptions, execute, manifest_path
from ctm.kubeflow import Task, decode_nulls
from ctm.params import load_params, override_sections, stage_config
from ctm.runtime.checkpoint_store import WORKING_FOLDER
from ctm.runtime.context import Launch, Part, available_cores
from ctm.runtime.preemption import Preempted
from ctm.stage import Parts, Profile, Ref, Source, Stage
from ctm.validation import read_config

__all__ = ["stage_command"]

Resume = Literal["auto", "never"]

GOES_ON = "the same command goes on where it was"


def stage_command(stage: Stage) -> Callable[..., None]:
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

    command.__signature__ = inspect.Signature(_stage_parameters(stage))  # type: ignore[attr-defined]
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
    """The options of a stage's command: its inputs, its outputs, and how it runs."""
    workers = available_cores() if stage.profile is Profile.CPU else None
    about_workers = "Processes that decode images; 0: the stage's own"
    if stage.profile is Profile.GPU:
        about_workers += "; left out: none on the CPU, beside a GPU its share of the cores, at most 8"
    inputs = [_input_option(name, source) for name, source in stage.inputs.items()]
    outputs = [
        _option(name, Path, Path(output.path), help=f"Where to write the {output.kind.value}.")
        for name, output in stage.outputs.items()
    ]
    part = [_option("part", str, "1/1", metavar="K/N", help="Only the K-th of N parts of the samples.")]
    overrides = Annotated[list[str], override_option(partial(stage_parameters, stage))]
    return [
        *inputs,
        *outputs,
        _option("metrics", Path, stage.metrics, help="Where to write the metrics."),
        _option("manifest", Path | None, None, help="Where to write the manifest; left out: beside the metrics."),
        _option("params", Path, Path("params.yaml"), help="Parameter file; what is read of it is listed below."),
        inspect.Parameter("overrides", inspect.Parameter.KEYWORD_ONLY, annotation=overrides, default=[]),
        _option("config", str | None, None, metavar="JSON", help="The stage's sections as JSON instead of --params."),
        *(part if stage.divisible else []),
        inspect.Parameter("device", inspect.Parameter.KEYWORD_ONLY, annotation=DeviceOption, default="auto"),
        _option("workers", int | None, workers, help=f"{about_workers}.", min=0),
        _option(
            "checkpoints",
            str,
            str(WORKING_FOLDER),
            metavar="PLACE",
            help="Folder or s3://bucket/prefix for the state of unfinished runs.",
        ),
        _option(
            "resume",
            Resume,
            "auto",
            help="auto continues an interrupted run of the very same stage, code, parameters and inputs.",
        ),
        _option(
            "labels", list[str], [], flag="--label", metavar="NAME=VALUE", help="Recorded in the manifest; repeatable."
        ),
        _option("executor_input", str | None, None, metavar="JSON", help="What Kubeflow tells a task of itself."),
    ]


def _option(name: str, annotation: Any, default: Any, *, flag: str = "", **about: Any) -> inspect.Parameter:
    option = typer.Option(flag or f"--{name.replace('_', '-')}", **about)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[annotation, option], default=default
    )


def _input_option(name: str, source: Source | Ref | Parts) -> inspect.Parameter:
    if isinstance(source, Source):
        about = f"Raw data: a folder or s3://bucket/prefix; parameter {source.param} of the pipeline."
        return _option(name, str, inspect.Parameter.empty, help=about)
    about = f"Output {source.port} of {source.stage.replace('_', '-')}"
    if isinstance(source, Parts):
        return _option(name, list[Path], [], help=f"{about}, one for each part, in their order.")
    return _option(name, Path, inspect.Parameter.empty, help=f"{about}.")
