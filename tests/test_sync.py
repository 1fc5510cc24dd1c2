"""dvc.yaml is what the stages say: the committed file, its edges, its commands, and DVC's own opinion of it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ctm.cli import app
from ctm.params import load_preset, to_yaml
from ctm.stage import Ref
from ctm.stages import STAGES
from ctm.sync import dvc_yaml

DOCUMENT: dict[str, Any] = yaml.safe_load(dvc_yaml(STAGES.values()))


def test_the_committed_file_is_up_to_date_and_says_that_it_is_generated(repository: Path):
    assert dvc_yaml(STAGES.values()).startswith("# Generated from ctm/stages by `ctm sync`. Do not edit")
    assert (repository / "dvc.yaml").read_text(encoding="utf-8") == dvc_yaml(STAGES.values())


def test_the_edges_are_the_references_of_the_stages():
    written = {path: name for name, entry in DOCUMENT["stages"].items() for path in entry["outs"]}
    for name, stage in STAGES.items():
        before = {source.stage for source in stage.inputs.values() if isinstance(source, Ref)}
        assert {written[path] for path in DOCUMENT["stages"][name]["deps"] if path in written} == before


def test_every_dependency_is_an_output_the_raw_data_or_a_file_of_the_code(repository: Path):
    written = {path for entry in DOCUMENT["stages"].values() for path in entry["outs"]}
    for entry in DOCUMENT["stages"].values():
        code = [path for path in entry["deps"] if path not in written and path != "${dataset.root}"]
        assert code
        assert all(path.startswith("ctm/") and (repository / path).is_file() for path in code)
        assert len(set(entry["deps"])) == len(entry["deps"])


def test_beside_an_installed_ctm_the_commands_name_its_version_and_no_file_of_it_is_a_dependency():
    text = dvc_yaml(STAGES.values(), installed="1.2.3")
    assert "make" not in text.splitlines()[0]
    for name, entry in yaml.safe_load(text)["stages"].items():
        inside = DOCUMENT["stages"][name]
        assert entry["cmd"] == f"{inside['cmd']} --label ctm=1.2.3"
        assert entry["deps"] == [path for path in inside["deps"] if not path.startswith("ctm/")]
        assert entry == inside | {"cmd": entry["cmd"], "deps": entry["deps"]}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_its_own_sections_alone(name: str):
    read = {parameter.partition(".")[0] for parameter in DOCUMENT["stages"][name]["params"]}
    assert read == set(STAGES[name].config.model_fields)


@pytest.mark.parametrize("name", STAGES)
def test_the_command_is_one_that_ctm_takes_and_names_every_port(name: str):
    entry = DOCUMENT["stages"][name]
    program, command, *arguments = shlex.split(entry["cmd"])
    assert (program, command) == ("ctm", STAGES[name].command)
    context = typer.main.get_command(app).commands[command].make_context(command, arguments)  # type: ignore[attr-defined]
    assert {str(context.params[port]) for port in STAGES[name].inputs} <= set(entry["deps"])
    assert [str(context.params[port]) for port in STAGES[name].outputs] == entry["outs"]
    assert [str(context.params["metrics"])] == [path for metric in entry["metrics"] for path in metric]


def test_what_differs_from_run_to_run_is_no_output():
    assert "manifest" not in dvc_yaml(STAGES.values())
    for entry in DOCUMENT["stages"].values():
        assert all(about == {"cache": False} for metric in entry["metrics"] for about in metric.values())


def test_plots_lie_in_outputs_and_name_columns():
    plots = {path: axes for plot in DOCUMENT["plots"] for path, axes in plot.items()}
    assert set(plots) == {"artifacts/classifier/history.csv", "artifacts/segmenter/history.csv"}
    assert all(axes["x"] == "epoch" and axes["y"] for axes in plots.values())


def test_without_plots_there_is_no_such_section():
    assert "plots" not in yaml.safe_load(dvc_yaml([STAGES["preprocess"]]))


def test_dvc_itself_reads_the_file_and_the_parameters(tmp_path: Path):
    pytest.importorskip("dvc", reason="needs the extra 'dvc'")
    (tmp_path / "params.yaml").write_text(to_yaml(load_preset("demo")))
    (tmp_path / "dvc.yaml").write_text(dvc_yaml(STAGES.values()))
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}

    def dvc(*arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    dvc("init", "--no-scm", "--quiet")
    assert dvc("stage", "list", "--name-only").split() == list(STAGES)
    edges = set(re.findall(r"(\w+)-->(\w+)", dvc("dag", "--mermaid").replace("\t", "")))
    read = {(s.stage, name) for name, e in STAGES.items() for s in e.inputs.values() if isinstance(s, Ref)}
    assert len(edges) == len(read)


def test_a_raw_folder_with_a_space_in_its_name_stays_one_argument():
    command = yaml.safe_load(dvc_yaml(STAGES.values()))["stages"]["preprocess"]["cmd"]
    arguments = shlex.split(command.replace("${dataset.root}", "data/my images"))
    assert arguments[arguments.index("--raw") + 1] == "data/my images"
