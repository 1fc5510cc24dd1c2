"""The components that are no stages: the names of the parts of a fan-out, and the comparison of several runs."""
# No `from __future__ import annotations` here: kfp reads the annotations themselves.

from typing import Any

from kfp import dsl
from kfp.dsl import placeholders, structures

from components.factory import ENTRYPOINT, IMAGES
from ctm.stage import Profile

__all__ = ["compare_runs", "list_parts"]

LIST_PARTS = """\
import json, pathlib, sys
count, file = int(sys.argv[1]), pathlib.Path(sys.argv[2])
if count < 1:
    sys.exit(f"parts is {count}: give 1 or more")
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text(json.dumps([f"{number}/{count}" for number in range(1, count + 1)]))
"""

# Spelled out, since kfp's decorator refuses an output called Output, the only one its local runner can loop over.
list_parts = dsl.container_component_class.ContainerComponent(
    structures.ComponentSpec(
        name="list-parts",
        description="Name the parts of a fan-out as --part takes them: 1/4, 2/4, 3/4, 4/4.",
        inputs={"count": structures.InputSpec("Integer", description="How many parts.")},
        outputs={"Output": structures.OutputSpec("List", description="The names of the parts, in order.")},
        implementation=structures.Implementation(
            structures.ContainerSpecImplementation(
                image=IMAGES[Profile.CPU],
                command=["python3", "-c", LIST_PARTS],
                args=[placeholders.InputValuePlaceholder("count"), placeholders.OutputParameterPlaceholder("Output")],
            )
        ),
    ),
    pipeline_func=None,
)


@dsl.container_component  # type: ignore[untyped-decorator]  # as kfp leaves it
def compare_runs(  # noqa: D417 - kfp reads the outputs under Returns
    names: list[Any],
    metrics: dsl.Input[list[dsl.Metrics]],
    report: dsl.Output[dsl.HTML],
    table: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Compare the metrics of several runs in one report.

    Args:
        names: What the runs are called, in the order of metrics.
        metrics: The metrics of every run.

    Returns:
        report: The comparison as one page.
        table: Every run's scores.
    """
    arguments = ["--names", names, "--report", report.path, "--metrics", table.path]
    task = ["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
    return dsl.ContainerSpec(IMAGES[Profile.GPU], ENTRYPOINT, ["compare-runs", *arguments, *task])
