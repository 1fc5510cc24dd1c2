"""The components that are no stages: the list of parts as it is really written, and the comparison's arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.factory import compiled
from components.steps import LIST_PARTS, compare_runs, list_parts


def document(component: Any) -> Any:
    return yaml.safe_load(compiled(component))


def list_parts_into(file: Path, count: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIST_PARTS, count, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("count", "parts"), [("1", ["1/1"]), ("3", ["1/3", "2/3", "3/3"])])
def test_the_parts_are_listed_as_the_command_line_takes_them(count: str, parts: list[str], tmp_path: Path):
    file = tmp_path / "new folder" / "Output"
    assert list_parts_into(file, count).returncode == 0
    assert json.loads(file.read_text()) == parts


def test_no_parts_at_all_is_an_error_that_says_so(tmp_path: Path):
    done = list_parts_into(tmp_path / "Output", "0")
    assert (done.returncode, done.stderr) == (1, "parts is 0: give 1 or more\n")
    assert not (tmp_path / "Output").exists()


def test_the_list_has_the_only_name_that_the_local_runner_loops_over():
    component = document(list_parts)["components"]["comp-list-parts"]
    assert component["outputDefinitions"]["parameters"]["Output"]["parameterType"] == "LIST"


def test_the_comparison_gets_names_and_metrics_and_writes_a_page_and_a_table():
    container = document(compare_runs)["deploymentSpec"]["executors"]["exec-compare-runs"]["container"]
    assert container["command"] == ["ctm-entrypoint"]
    assert container["args"] == [
        *("compare-runs", "--names", "{{$.inputs.parameters['names']}}"),
        *("--report", "{{$.outputs.artifacts['report'].path}}"),
        *("--metrics", "{{$.outputs.artifacts['table'].path}}"),
        *("--executor-input", "{{$}}"),
    ]
    component = document(compare_runs)["components"]["comp-compare-runs"]
    assert component["inputDefinitions"]["artifacts"]["metrics"]["isArtifactList"]
    outputs = component["outputDefinitions"]["artifacts"]
    assert outputs["report"]["artifactType"]["schemaTitle"] == "system.HTML"
    assert outputs["table"]["artifactType"]["schemaTitle"] == "system.Metrics"
