"""The command `ctm-pipeline`: compiles the pipelines, checks them, and talks to a Kubeflow server."""

from __future__ import annotations

import inspect
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ctm.errors import CtmError
from ctm.params import load_params
from ctm.runtime.log import show_log
from ctm.runtime.outputs import write_text
from ctm.runtime.storage import is_remote
from pipelines.errors import PipelineError
from pipelines.new_data import RECORDED, has_changed
from pipelines.request import PipelineName, Request

__all__ = ["app", "main"]

ENDPOINT = "KF_PIPELINES_ENDPOINT"
"""Environment variable of kfp with a server's address."""

EXPERIMENT, NAME = "ctm", "ctm"
"""What a run's experiment and a schedule are called unless they are given a name."""


class CreateByDefault(typer.core.TyperGroup):
    """A group in which ``schedule --cron …`` means ``schedule create --cron …``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command in where options come first."""
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="ctm-pipeline",
    help="The pipelines of ctm on Kubeflow: compile, check, submit, schedule, record.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)
schedules = typer.Typer(
    name="schedule",
    cls=CreateByDefault,
    help="Runs that Kubeflow starts by itself. Without a command: create.",
    no_args_is_help=True,
    context_settings=HELP,
)
app.add_typer(schedules, rich_help_panel="On a server")

ParamsFile = Annotated[Path, typer.Option("--params", metavar="FILE", help="Parameter file.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="NAME=VALUE", help="Override a parameter (train_classifier.epochs=3); repeatable."),
]
Host = Annotated[str, typer.Option("--host", metavar="URL", envvar=ENDPOINT, help="Address of Kubeflow Pipelines.")]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        metavar="NAME",
        envvar="KUBEFLOW_NAMESPACE",
        help="Namespace, where the server serves several.",
    ),
]
Experiment = Annotated[str, typer.Option("--experiment", metavar="NAME", help="Experiment that the run belongs to.")]
ProfilesFile = Annotated[
    Path | None, typer.Option("--profiles", metavar="FILE", help="File of profiles instead of the one of ctm.")
]
AllowTags = Annotated[bool, typer.Option("--allow-tags", help="Also with images that are named by tag.")]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the schedule.")]
Cron = Annotated[
    str, typer.Option("--cron", metavar="CRON", help="When, as cron in UTC: '0 3 * * 1' is Mondays at 3:00.")
]
Pipeline = Annotated[PipelineName, typer.Option("--pipeline", help="Which pipeline.")]
Parts = Annotated[int | None, typer.Option("--parts", min=1, help="ctm_fanout: parts that run side by side.")]
Raw = Annotated[
    str | None,
    typer.Option(
        "--raw",
        metavar="URI",
        help="Raw data as pods reach them: s3://bucket/prefix or a mounted path; left out: dataset.root, in S3.",
    ),
]

REQUEST: dict[str, tuple[Any, Any]] = {
    "images": (
        Annotated[
            list[str],
            typer.Option(
                "--image",
                metavar="REF",
                help="Image by digest: REF for all stages, cpu=REF or gpu=REF, STAGE=REF for one; repeatable.",
            ),
        ],
        inspect.Parameter.empty,
    ),
    "params": (ParamsFile, Path("params.yaml")),
    "overrides": (Overrides, []),
    "pipeline": (Pipeline, "ctm"),
    "profile": (Annotated[str, typer.Option("--profile", metavar="NAME", help="Profile of the cluster.")], "nvidia"),
    "profiles": (ProfilesFile, None),
    "raw": (Raw, None),
    "raw_hash": (
        Annotated[
            str | None,
            typer.Option("--raw-hash", metavar="TEXT", help="What names the raw data's contents; left out: a digest."),
        ],
        None,
    ),
    "checkpoints": (
        Annotated[
            str | None,
            typer.Option(
                "--checkpoints", metavar="URI", help="Folder of a volume, or s3://…; left out: the profile's."
            ),
        ],
        None,
    ),
    "parts": (Parts, None),
    "runs": (
        Annotated[
            list[str],
            typer.Option(
                "--run",
                metavar="NAME=VALUE",
                help="ctm_sweep: a run with this parameter; repeatable; left out: the paper's Table 8.",
            ),
        ],
        [],
    ),
    "run_name": (
        Annotated[
            str | None,
            typer.Option("--run-name", metavar="NAME", help="Name of the run; left out: data, revision, time."),
        ],
        None,
    ),
    "allow_dirty": (
        Annotated[bool, typer.Option("--allow-dirty", help="Also with changes that are not committed.")],
        False,
    ),
    "allow_unpushed": (
        Annotated[bool, typer.Option("--allow-unpushed", help="Also with raw data that DVC's remote does not hold.")],
        False,
    ),
    "allow_tags": (AllowTags, False),
    "cache": (Annotated[bool, typer.Option("--cache/--no-cache", help="Take results of equal tasks.")], True),
}
"""The options that make a ``Request``: name of its field, type with help, default."""


def main() -> None:
    """Runs the command line; an error that the user can mend is one message and exit code 1."""
    show_log()
    warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
    try:
        app()
    except (CtmError, OSError) as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("ctm", "components", "pipelines"):
            raise
        sys.exit(f"error: this command needs {error.name}, which is not installed: pip install 'ctm[data,dvc,kfp]'")


def takes_request(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of a request; the command gets them as ``request``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {name: about for name, about in REQUEST.items() if name not in without}
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "request"]
        kind = inspect.Parameter.KEYWORD_ONLY
        shared = [inspect.Parameter(name, kind, annotation=a, default=d) for name, (a, d) in options.items()]

        def wrapped(**given: Any) -> None:
            request = Request(**{name: given.pop(name) for name in options})
            command(request=request, **given)

        parameters = [parameter.replace(kind=kind) for parameter in own] + shared
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # for typer
        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        return wrapped

    return decorate


@app.command("compile", rich_help_panel="Here")
def compile_files(
    params: ParamsFile = Path("params.yaml"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if a file is not up to date.")] = False,
) -> None:
    """Write pipelines/*.yaml and components/*.yaml from the stages."""
    from pipelines.build import generated_files

    files = generated_files(load_params(params))
    stale = {path: text for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text}
    if check and stale:
        names = ", ".join(map(str, stale))
        raise PipelineError(f"not what the stages say: {names}. Run `make pipeline` and commit the result.")
    for path, text in stale.items():
        write_text(path, text)
        typer.echo(f"wrote {path}")
    typer.echo(f"{len(files)} files are up to date")


@app.command(rich_help_panel="Here")
def check(
    file: Annotated[Path, typer.Argument(help="A compiled pipeline or component.")],
    allow_tags: AllowTags = False,
) -> None:
    """Find what a compiled pipeline has wrong and Kubeflow would only notice in the middle of a run."""
    from pipelines.check import check_package

    if problems := check_package(file.read_text(encoding="utf-8"), allow_tags=allow_tags):
        raise PipelineError(f"{file} has {len(problems)} faults:\n" + "\n".join(problems))
    typer.echo(f"{file} is in order")


@app.command(rich_help_panel="Here")
def trainjob(
    stage: Annotated[str, typer.Argument(help="The stage, such as train-classifier.")],
    image: Annotated[str, typer.Option("--image", metavar="REF", help="Image by digest.")],
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    raw: Raw = None,
    profiles: ProfilesFile = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the job; left out: ctm-STAGE.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="File to write.")] = None,
    allow_tags: AllowTags = False,
) -> None:
    """Print a stage as a TrainJob of Kubeflow Trainer v2, for several processes or nodes."""
    from pipelines.images import choose_images
    from pipelines.profiles import load_trainjob
    from pipelines.trainjob import make_trainjob, stage_named, trainjob_text

    chosen = stage_named(stage)
    reference = choose_images([image], {chosen.name: chosen.profile}, allow_tags=allow_tags)[chosen.name]
    job = make_trainjob(
        chosen, load_params(params, overrides), load_trainjob(profiles), image=reference, raw=raw, name=name
    )
    text = trainjob_text(chosen, job)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        typer.echo(f"wrote {output}")


@app.command(rich_help_panel="Here")
def run_local(
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    pipeline: Pipeline = "ctm",
    images: Annotated[
        list[str], typer.Option("--image", metavar="REF", help="As for submit; left out: those of `make images`.")
    ] = [],
    parts: Parts = None,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for what the stages write.")] = Path(
        ".ctm/kfp-local/output"
    ),
    checkpoints: Annotated[
        Path, typer.Option("--checkpoints", metavar="DIR", help="Folder for the state of unfinished runs.")
    ] = Path(".ctm/kfp-local/checkpoints"),
) -> None:
    """Run a pipeline on this machine's Docker, every stage in its container."""
    from components.factory import IMAGES
    from ctm.stages import STAGES
    from pipelines.images import choose_images
    from pipelines.local import run_pipeline_here

    ours = [f"{profile}={image}" for profile, image in IMAGES.items()]
    needs = {name: stage.profile for name, stage in STAGES.items()}
    chosen = choose_images([*ours, *images], needs, allow_tags=True)
    given = {} if parts is None else {"parts": parts}
    loaded = load_params(params, overrides)
    report = run_pipeline_here(pipeline, loaded, output=output, images=chosen, checkpoints=checkpoints, **given)
    typer.echo(f"report: {report}")


@app.command(rich_help_panel="Here")
def sweep(
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE,VALUE", help="What to vary; left out: the paper's Table 8."),
    ] = None,
    grids: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="'NAME=VALUE …'",
            help="A further run that changes these parameters and no others; repeatable; '' changes nothing.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="SEED,SEED", help="Every run with each of these: mean and standard deviation."),
    ] = None,
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Experiments that run at a time.")] = 1,
    copy: Annotated[
        list[Path] | None,
        typer.Option(
            "--copy",
            metavar="PATH",
            help="What the stages read and neither git nor DVC tracks, such as pretrained weights.",
        ),
    ] = None,
    collect: Annotated[
        str | None, typer.Option("--collect", metavar="NAME", help="Run nothing; compare an earlier sweep's runs.")
    ] = None,
    report: Annotated[Path, typer.Option("--report", metavar="FILE", help="Page to write.")] = Path(
        "report/sweep.html"
    ),
    metrics: Annotated[Path, typer.Option("--metrics", metavar="FILE", help="Figures to write.")] = Path(
        "metrics/sweep.json"
    ),
    figures: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME",
            help="A figure of metrics/evaluate.json to show (segmenter.val.miou); repeatable; left out: Table 8's.",
        ),
    ] = None,
    results: Annotated[
        str | None,
        typer.Option(
            "--results", metavar="NAME", help="Also write docs/results/NAME-DATASET: a table, and all figures as JSON."
        ),
    ] = None,
) -> None:
    """Run the stages for every value of a parameter in DVC's queue, and compare the runs in one report."""
    from ctm.evaluation.comparison import column, columns_of, unknown_columns
    from pipelines import sweep as sweeps
    from pipelines.experiments import rows
    from pipelines.results import origin_of, write_results

    varied = [values] if values else [] if grids else [[sweeps.TABLE_8]]
    wanted = [*varied, *map(shlex.split, grids or ())]
    name = collect or sweeps.queue(wanted, params=params, settings=overrides, seeds=seeds, copy=copy or ())
    if collect is None:
        typer.echo(f"queued as {name}")
        sweeps.run_queued(jobs=jobs)
    experiments = sweeps.collect(name)
    wrong = sweeps.failures(experiments)
    if lines := rows(experiments):
        columns = tuple(map(column, figures or ())) or columns_of(lines)
        sweeps.write_comparison(experiments, report=report, metrics=metrics, title=f"Sweep {name}", columns=columns)
        runs = sum(len(line.runs) for line in lines)
        typer.echo(f"wrote {report} and {metrics}: {runs} of {len(experiments)} experiments")
        if results:
            origin = origin_of(
                name, experiments, command=sys.argv, started=sweeps.started(name), collected=bool(collect)
            )
            written = write_results(results, experiments, columns=columns, origin=origin)
            typer.echo(f"wrote {', '.join(map(str, written))}")
        if figures and (unknown := unknown_columns(lines, columns)):
            wrong.append(f"no run has the figure {', '.join(unknown)}: see metrics/evaluate.json for the names.")
    if wrong:
        raise PipelineError("\n".join(wrong))


@app.command(rich_help_panel="Here")
def new_data(
    params: ParamsFile = Path("params.yaml"),
    overrides: Overrides = [],
    raw: Raw = None,
    recorded: Annotated[
        list[Path] | None,
        typer.Option(
            "--recorded", metavar="FILE", help="Manifest of a recorded run; repeatable; left out: in models/."
        ),
    ] = None,
) -> None:
    """Tell whether the raw data have changed since the recorded run, as a line for $GITHUB_OUTPUT."""
    # Data that pods find at a path of their own are known here by dataset.root, as `submit` knows them.
    root = raw if raw and is_remote(raw) else load_params(params, overrides).dataset.root
    changed = has_changed(root, recorded or RECORDED)
    typer.echo(f"changed={str(changed).lower()}")


@app.command(rich_help_panel="On a server")
@takes_request()
def submit(
    request: Request,
    host: Host,
    namespace: Namespace = None,
    experiment: Experiment = EXPERIMENT,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the run has ended; code 1 if it failed.")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = None,
    poll: Annotated[float, typer.Option("--poll", min=0.01, help="Seconds between two questions while waiting.")] = 10,
) -> None:
    """Run a pipeline on Kubeflow, made from this working tree."""
    from pipelines import submit as jobs
    from pipelines.server import Server
    from pipelines.wait import wait as wait_for

    job = jobs.prepare(request)
    server = Server(host, namespace)
    run_id = jobs.submit(server, job, experiment=experiment)
    typer.echo(f"submitted {job.name}\nrun_id={run_id}\nurl={server.run_url(run_id)}")
    if wait:
        names = jobs.task_names(job.package)
        wait_for(server, run_id, tasks=names, tell=typer.echo, poll=poll, timeout=timeout)
        typer.echo(f"succeeded: {server.run_url(run_id)}")
        typer.echo(f"bring model and metrics here: ctm-pipeline record --host {host} --run {run_id}")


@app.command(rich_help_panel="On a server")
def record(
    host: Host,
    run: Annotated[str, typer.Option("--run", metavar="ID", help="The run, or latest.")],
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="Folder to write.")] = Path("models"),
    namespace: Namespace = None,
    experiment: Experiment = EXPERIMENT,
    root: Annotated[
        str | None,
        typer.Option(
            "--pipeline-root", metavar="URI", help="Where the server keeps artifacts; left out: as the run says."
        ),
    ] = None,
) -> None:
    """Bring model and metrics of a finished run into the working tree, and show how they differ from main."""
    from pipelines import record as records
    from pipelines.server import Server

    found = records.find_run(Server(host, namespace), run, experiment=experiment)
    written = records.fetch(found, into, root=root)
    files = " ".join(map(str, records.track(written)))
    typer.echo(f"recorded {found.display_name or found.run_id}\n")
    typer.echo("\n".join(records.comparison(written.metrics)))
    typer.echo(f"\nto keep it: dvc push {written.model}.dvc && git add {files} && git commit")


def _schedule_command(action: Literal["create", "replace"], about: str) -> None:
    """Adds one of the two commands that make a schedule."""

    @schedules.command(action, help=about)
    @takes_request(without=("run_name",))
    def command(
        request: Request,
        host: Host,
        cron: Cron,
        name: Name = NAME,
        namespace: Namespace = None,
        experiment: Experiment = EXPERIMENT,
    ) -> None:
        from dataclasses import replace

        from pipelines import schedule
        from pipelines.server import Server
        from pipelines.submit import prepare

        fields = schedule.cron_fields(cron)
        job = prepare(replace(request, run_name=name, scheduled=True))
        make = schedule.create if action == "create" else schedule.replace
        created = make(Server(host, namespace), job, cron=fields, experiment=experiment)
        typer.echo(f"schedule {name} at {fields}\nschedule_id={created}")


_schedule_command("create", "Start a pipeline again and again; each run reads the raw data anew.")
_schedule_command(
    "replace", "Put a new schedule in the place of one; the new one is made before the old one is deleted."
)


@schedules.command("list")
def schedule_list(host: Host, namespace: Namespace = None) -> None:
    """List the schedules."""
    from pipelines.schedule import listed
    from pipelines.server import Server

    for schedule in listed(Server(host, namespace)):
        typer.echo(f"{schedule.name}  {schedule.cron}  {schedule.state}  {schedule.id}")


@schedules.command("delete")
def schedule_delete(
    name: Annotated[str, typer.Argument(help="Name or id of the schedule.")], host: Host, namespace: Namespace = None
) -> None:
    """Delete a schedule; runs that it has started go on."""
    from pipelines.schedule import delete
    from pipelines.server import Server

    for schedule in delete(Server(host, namespace), name):
        typer.echo(f"deleted {schedule.name} ({schedule.id})")


if __name__ == "__main__":
    main()
