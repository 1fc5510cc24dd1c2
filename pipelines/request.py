"""What is to run on Kubeflow, as `submit` and `schedule` are told: every field is an option of both."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ctm.commands.options import Overrides, ParamsFile
from pipelines.options import AllowTags, Parts, Pipeline, ProfilesFile, Raw

__all__ = ["Request", "takes_request"]


@dataclass(frozen=True)
class Request:
    """A run that is asked for; what each field means is the help of its option."""

    images: Annotated[
        list[str],
        typer.Option(
            "--image",
            metavar="REF",
            help="Image by digest: REF for all stages, cpu=REF or gpu=REF, STAGE=REF for one; repeatable.",
        ),
    ]
    params: ParamsFile = Path("params.yaml")
    overrides: Overrides = field(default_factory=list)
    pipeline: Pipeline = "ctm"
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="Profile of the cluster.")] = "nvidia"
    profiles: ProfilesFile = None
    raw: Raw = None
    raw_hash: Annotated[
        str | None,
        typer.Option("--raw-hash", metavar="TEXT", help="What names the raw data's contents; left out: a digest."),
    ] = None
    checkpoints: Annotated[
        str | None,
        typer.Option("--checkpoints", metavar="URI", help="Folder of a volume, or s3://…; left out: the profile's."),
    ] = None
    parts: Parts = None
    runs: Annotated[
        list[str],
        typer.Option(
            "--run",
            metavar="NAME=VALUE",
            help="ctm_sweep: a run with this parameter; repeatable; left out: the paper's Table 8.",
        ),
    ] = field(default_factory=list)
    allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="Also with changes that are not committed.")] = (
        False
    )
    allow_unpushed: Annotated[
        bool, typer.Option("--allow-unpushed", help="Also with raw data that DVC's remote does not hold.")
    ] = False
    allow_tags: AllowTags = False
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Take results of equal tasks.")] = True


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the fields of a request as options, after its own; it gets them as ``request``."""
    hints, kind = get_type_hints(Request, include_extras=True), inspect.Parameter.KEYWORD_ONLY
    signature = inspect.signature(command, eval_str=True)
    own = [p.replace(kind=kind) for p in signature.parameters.values() if p.name != "request"]
    shared = [inspect.Parameter(f.name, kind, annotation=hints[f.name], default=_default(f)) for f in fields(Request)]

    def wrapped(**given: Any) -> None:
        request = Request(**{option.name: given.pop(option.name) for option in shared})
        command(request=request, **given)

    wrapped.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped


def _default(option: Any) -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return inspect.Parameter.empty if option.default is MISSING else option.default
