"""The command line: commands made from the stages, set-up commands, and one message for each mistake."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import Result
from typer.main import get_command
from typer.testing import CliRunner

import ctm
from ctm.cli import app
from ctm.data.shards import ShardFolder
from ctm.errors import CtmError
from ctm.kubeflow import encode_nulls
from ctm.params import load_params, load_preset, preset_names, stage_config, to_yaml
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.recipes import all_recipes
from ctm.stage import Parts
from ctm.stages import JOINS, STAGES
from ctm.sync import dvc_yaml

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: object) -> Result:
    """Runs a command within this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


def fail(*arguments: object) -> str:
    """The message of an error that `main` shows as one line."""
    result = call(*arguments)
    assert isinstance(result.exception, CtmError), result.output
    assert result.stdout == ""
    return str(result.exception)


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the installed `ctm` itself."""
    program = Path(sys.executable).with_name("ctm")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    words = [str(program), *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def refused(*arguments: object, cwd: Path) -> str:
    """The one error message of a command that fails and leaves nothing behind."""
    before = {path for path in cwd.rglob("*") if path.is_file()}
    done = command(*arguments, cwd=cwd)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert [line.startswith("error: ") for line in done.stderr.splitlines()].count(True) == 1, done.stderr
    assert {path for path in cwd.rglob("*") if path.is_file()} == before
    return done.stderr[done.stderr.index("error: ") :]


@pytest.mark.parametrize("name", STAGES | JOINS)
def test_a_stage_is_a_command_with_its_ports_as_options(name: str):
    stage = (STAGES | JOINS)[name]
    options = {option.name: option for option in COMMANDS[stage.command].params}
    assert COMMANDS[stage.command].help == stage.summary
    assert all(options[port].required for port, source in stage.inputs.items() if not isinstance(source, Parts))
    assert all(options[port].default == Path(output.path) for port, output in stage.outputs.items())
    assert options["metrics"].default == stage.metrics
    rest = {"metrics", "manifest", "params", "overrides", "config", "device", "workers", "checkpoints", "resume"}
    rest |= {"labels", "executor_input"} | ({"part"} if stage.divisible else set())
    assert set(options) == {*stage.inputs, *stage.outputs, *rest}


def test_help_lists_every_command_and_exit_code():
    text = succeed("--help")
    assert all(name in text for name in COMMANDS)
    assert {"init", "show", "describe", "sync", "unpack", "demo-data"} < set(COMMANDS)
    assert re.findall(r"\d+", text.partition("Exit codes:")[2]) == ["0", "1", "2", "130", "143"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str):
    assert COMMANDS[name].help
    assert all(option.help for option in COMMANDS[name].params)


def test_the_version_is_told():
    assert succeed("--version") == f"ctm {ctm.__version__}\n"


def test_init_writes_the_preset_with_its_changes(place: Path):
    assert succeed("init", "demo", "--set", "seed=5") == "wrote params.yaml from preset demo\n"
    assert load_params(Path("params.yaml")) == load_preset("demo", ["seed=5"])
    succeed("init", "photographs", "--output", "other/params.yaml")
    assert load_params(place / "other/params.yaml") == load_preset("photographs")


def test_init_replaces_a_file_only_when_told_to():
    Path("folder").mkdir()
    assert "is a folder, which a file would replace" in fail("init", "demo", "--output", "folder", "--force")
    Path("params.yaml").write_text("mine")
    assert fail("init", "demo") == "params.yaml exists. Give --force to replace it, or --output to write elsewhere."
    assert Path("params.yaml").read_text() == "mine"
    succeed("init", "demo", "--force")
    assert load_params(Path("params.yaml")) == load_preset("demo")


def test_an_unknown_preset_is_answered_with_all_of_them(place: Path):
    message = fail("init", "dmeo")
    assert "did you mean demo?" in message
    assert all(name in message for name in preset_names())
    assert not list(place.iterdir())


def test_show_prints_what_is_in_force():
    succeed("init", "demo")
    shown = succeed("show", "--set", "train_classifier.lr=1e-4")
    assert shown == to_yaml(load_preset("demo", ["train_classifier.lr=1e-4"]))
    assert yaml.safe_load(shown)["train_classifier"]["lr"] == 1e-4


def test_describe_reads_params_or_a_preset():
    succeed("init", "demo", "--set", "model.depth=2")
    facts = json.loads(succeed("describe", "--json"))
    assert facts["depth"] == 2
    assert json.loads(succeed("describe", "--json", "--preset", "demo"))["depth"] == 4
    assert json.loads(succeed("describe", "--json", "--preset", "demo", "--set", "model.depth=3"))["depth"] == 3
    assert f"parameters     {facts['parameters']}" in succeed("describe").splitlines()


def test_sync_writes_what_check_then_finds_in_order():
    assert "run `ctm sync`" in fail("sync", "--check").lower()
    assert not Path("dvc.yaml").exists()
    succeed("sync")
    assert Path("dvc.yaml").read_text() == dvc_yaml(STAGES.values(), installed=ctm.__version__)
    written = Path("dvc.yaml").stat().st_mtime_ns
    succeed("sync", "--check")
    succeed("sync")
    assert Path("dvc.yaml").stat().st_mtime_ns == written
    Path("dvc.yaml").write_text("stages: {}")
    fail("sync", "--check")
    assert Path("dvc.yaml").read_text() == "stages: {}"


def test_a_stage_takes_its_sections_as_json_with_whole_floats(place: Path, demo_raw: Path, tiny_params: Any):
    config = stage_config(tiny_params, STAGES["preprocess"].config).model_dump(mode="json")
    config["preprocess"]["shard_mb"] = 1.0
    config["dataset"]["channels"] = 15.0
    succeed("preprocess", "--raw", demo_raw, "--config", json.dumps(config))
    assert len(ShardFolder.open(place / "artifacts/shards").split("train")) == 24
    assert json.loads((place / "metrics/preprocess.manifest.json").read_text())["config"]["preprocess"] == {
        "shard_mb": 1,
        "on_error": "fail",
    }


def test_overrides_apply_to_json_where_the_stage_reads_the_section(demo_raw: Path, tiny_params: Any):
    config = stage_config(tiny_params, STAGES["preprocess"].config).model_dump(mode="json")
    given = ["--set", "dataset.normalise=none", "--set", "train_classifier.pruning_weight=0.1", "--set", ""]
    succeed("preprocess", "--raw", demo_raw, "--config", json.dumps(encode_nulls(config)), *given)
    used = json.loads(Path("metrics/preprocess.manifest.json").read_text())["config"]
    assert used == {**config, "dataset": {**config["dataset"], "normalise": "none"}}
    assert config["dataset"]["scale"] is None  # a null went through
    wrong = ["--set", "datset.normalise=none"]
    assert "unknown parameter datset" in fail("preprocess", "--raw", "r", "--config", json.dumps(config), *wrong)


def test_labels_and_the_place_of_the_manifest_are_as_told(place: Path, demo_raw: Path, tiny_overrides: tuple[str, ...]):
    succeed("init", "demo", *(word for override in tiny_overrides for word in ("--set", override)))
    succeed("preprocess", "--raw", demo_raw, "--manifest", "m/it.json", "--label", "run=a=b", "--label", "empty=")
    assert json.loads((place / "m/it.json").read_text())["labels"] == {"run": "a=b", "empty": ""}
    assert [path.name for path in (place / "metrics").iterdir()] == ["preprocess.json"]
    assert "--label run: expected NAME=VALUE" in fail("preprocess", "--raw", demo_raw, "--label", "run")


def test_several_processes_are_refused_where_a_stage_is_of_one(place: Path, monkeypatch: pytest.MonkeyPatch):
    succeed("init", "demo")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun has started 2" in fail("prune-heads", "--shards", "nowhere", "--classifier", "nowhere")


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "-1/2", "1/0"])
def test_a_wrong_part_is_refused(part: str):
    succeed("init", "demo")
    message = fail("extract-pseudomasks", "--shards", "s", "--pruned", "p", "--part", part)
    assert message == f"--part {part}: expected K/N with 1 <= K <= N, such as 2/4."


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "--config is no valid JSON"),
        ("[]", "--config: parameters: Input should be a valid dictionary"),
        ("{}", "--config: parameter dataset is missing"),
        ('{"datset": {}, "dataset": {"format": "folder", "root": "x"}, "preprocess": {}}', "did you mean dataset?"),
    ],
)
def test_wrong_json_is_refused(config: str, message: str):
    assert message in fail("preprocess", "--raw", "raw", "--config", config)


def test_paths_and_overrides_go_where_they_are_told(place: Path, demo_raw: Path):
    succeed("init", "demo", "--output", "p.yaml")
    outputs = ["--shards", "here/shards", "--contact-sheet", "here/sheet.png", "--metrics", "there/numbers.json"]
    succeed("preprocess", "--raw", demo_raw, "--params", "p.yaml", "--set", "dataset.min_label_fraction=0.3", *outputs)
    made = {path.relative_to(place).parts[0] for path in place.rglob("*") if path.is_file()}
    assert made == {"p.yaml", "here", "there"}
    assert (place / "there/numbers.manifest.json").is_file()
    labels = ShardFolder.open(place / "here/shards").split("train").labels
    assert labels.sum(axis=1).max() <= 3


def test_unpack_writes_pictures_of_every_mask(place: Path, tiny_shards: ShardFolder):
    assert succeed("unpack", tiny_shards.path, "png") == "wrote 32 masks to png\n"
    assert len(list((place / "png").rglob("*.png"))) == 32
    assert "index.json is missing" in fail("unpack", place, "other")


def test_a_missing_required_option_is_told_by_its_name():
    result = call("preprocess")
    assert result.exit_code == 2
    assert "--raw" in result.output


@pytest.fixture
def demo_copy(place: Path, demo_raw: Path, tiny_overrides: tuple[str, ...]) -> Path:
    """A working folder with tiny parameters and a copy of the demo data to spoil."""
    shutil.copytree(demo_raw, place / "raw")
    (place / "params.yaml").write_text(to_yaml(load_preset("demo", tiny_overrides)))
    return place


def no_such_folder(root: Path) -> None:
    shutil.rmtree(root / "raw")


def unreadable_image(root: Path) -> None:
    path = next((root / "raw").rglob("*_s2_0_p5.tif"))
    path.write_bytes(b"II*\0" + path.read_bytes()[4:3000])


def mask_of_another_size(root: Path) -> None:
    import rasterio

    place = rasterio.Affine(10, 0, 0, 0, -10, 0)
    path = sorted((root / "raw").rglob("*_dfc_0_p4.tif"))[0]
    with rasterio.open(path, "w", driver="GTiff", count=1, height=16, width=32, dtype="uint8", transform=place) as file:
        file.write(np.ones((1, 16, 32), dtype=np.uint8))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_such_folder, ["raw does not exist", "dataset.root"]),
        (unreadable_image, ["_s2_0_p5.tif"]),
        (mask_of_another_size, ["_s2_0_p4.tif", "differ in size", "(16, 32) (dfc)"]),
    ],
)
def test_spoilt_data_give_one_error_and_no_output(demo_copy: Path, spoil: Callable[[Path], None], words: list[str]):
    spoil(demo_copy)
    message = refused("preprocess", "--raw", "raw", cwd=demo_copy)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "train_classifier.epoch=3"], ["unknown parameter train_classifier.epoch", "did you mean epochs?"]),
        (["--set", "model.image_size=224.5"], ["model.image_size", "224.5"]),
        (["--params", "none.yaml"], ["none.yaml: no such file", "ctm init PRESET"]),
        (["--shards", "nowhere"], ["input --shards nowhere is missing", "preprocess"]),
    ],
)
def test_a_mistake_on_the_command_line_gives_one_error(demo_copy: Path, arguments: list[str], words: list[str]):
    given = arguments if "--shards" in arguments else ["--shards", "raw", *arguments]
    message = refused("train-classifier", *given, cwd=demo_copy)
    assert all(word in message for word in words), message


def test_an_impossible_model_leaves_no_output(demo_copy: Path, tiny_shards: ShardFolder):
    before = set(demo_copy.rglob("*.*"))
    wrong = ["--set", "model.image_size=[30, 32]", "--device", "cpu"]
    assert "height 30: use 24 or 32" in fail("train-classifier", "--shards", tiny_shards.path, *wrong)
    assert set(demo_copy.rglob("*.*")) == before


def test_a_missing_gpu_is_told(demo_copy: Path, tiny_shards: ShardFolder):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    message = fail("train-classifier", "--shards", tiny_shards.path, "--device", "cuda")
    assert message == "--device cuda: no CUDA device can be used here. Use --device cpu, or auto."


def test_an_empty_address_of_raw_data_is_told():
    succeed("init", "demo")
    assert fail("preprocess", "--raw", "") == "--raw is empty: give a folder or s3://bucket/prefix."


@pytest.mark.parametrize("words", [["--names", '["a"]', "--run", "a=x"], ["--executor-input", '{"outputs": {}}']])
def test_options_of_a_comparison_that_do_not_go_together_are_refused(words: list[str]):
    assert "give --run NAME=FILE" in fail("compare-runs", "--report", "r", "--metrics", "m", *words)


def test_a_misspelt_column_of_a_comparison_is_refused_and_nothing_written(place: Path):
    Path("a.json").write_text(json.dumps({"segmenter": {"val": {"miou": 0.5}}}), encoding="utf-8")
    words = ["--report", "r.html", "--metrics", "m.json", "--run", "a=a.json", "--column", "segmenter.val.mioou"]
    assert "no run has the figure segmenter.val.mioou" in fail("compare-runs", *words)
    assert not Path("r.html").exists()


def test_strategies_are_compared_on_one_page(place: Path, pipeline: Any, tiny_params: Any):
    Path("params.yaml").write_text(to_yaml(tiny_params), encoding="utf-8")
    given = ["--shards", pipeline.path("preprocess", "shards"), "--pruned", pipeline.path("prune_heads", "pruned")]
    files = ["--report", "page.html", "--metrics", "figures.json", "--images", "6", "--device", "cpu"]
    said = succeed("compare", *given, *files)
    found = json.loads((place / "figures.json").read_text())
    assert said == f"wrote page.html and figures.json; highest label-free score: {found['best_label_free']}\n"
    assert (found["split"], found["images"]) == ("train", 6)
    assert list(found["recipes"]) == ["random", *all_recipes(patch_head=False, further=ExtractConfig().auto)]
    assert "Strategies compared" in (place / "page.html").read_text(encoding="utf-8")
    succeed("compare", *given, *files, "--recipe", "attention", "--split", "val")
    assert list(json.loads((place / "figures.json").read_text())["recipes"]) == ["random", "attention"]
    assert "--split tune: there is no such split" in fail("compare", *given, *files, "--split", "tune")
    assert "cannot read 'relevence'" in fail("compare", *given, *files, "--recipe", "relevence")


def test_tasks_of_a_sweep_keep_their_checkpoints_apart(place: Path, tiny_shards: ShardFolder, tiny_params: Any):
    config = json.dumps(stage_config(tiny_params, STAGES["train_classifier"].config).model_dump(mode="json"))
    given = ["--shards", tiny_shards.path, "--config", config, "--checkpoints", place / "ck", "--device", "cpu"]
    for weight in ("0.1", "0.2"):  # of another stage, so that both are the same training
        succeed("train-classifier", *given, "--set", f"extract_pseudomasks.threshold={weight}")
    assert len(list((place / "ck").iterdir())) == 2


LOST_FILE = (
    "from torch.utils.data import DataLoader; item = {'__len__': lambda s: 1, '__getitem__': lambda s, i: open('x')}; "
    "next(iter(DataLoader(type('Data', (), item)(), num_workers=1)))"
)
"""A process that decodes images finds no file; torch hands on its error with the process's traceback."""

FULL_GPU = "import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "ended by SIGTERM"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "ended by Ctrl-C"),
        (FULL_GPU, 1, "error: CUDA out of memory. In a stage, lower its batch_size"),
        (LOST_FILE, 1, "error: [Errno 2] No such file or directory: 'x'. Correct that and run the command again."),
        ("open('params.yaml/x')", 1, "error: params.yaml/x: Not a directory. A part of this path is a file: name"),
    ],
)
def test_every_end_has_its_code_and_one_message(place: Path, body: str, code: int, message: str):
    (place / "params.yaml").touch()
    program = (
        "import os, signal, sys; from ctm.cli import app, main\n"
        f"@app.command('it')\ndef it() -> None:\n    {body}\n\nsys.argv[1:] = ['it']; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(place: Path):
    succeed("init", "demo")
    ctm_show = [str(Path(sys.executable).with_name("ctm")), "show"]
    with subprocess.Popen(ctm_show, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # type: ignore[union-attr]
        assert process.communicate()[1] == ""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ctm init d", ["demo", "dfc2020"]),
        ("ctm prune-heads --set prune_heads.c", ["prune_heads.check_images="]),
        ("ctm prune-heads --set train_s", []),
        ("ctm show --set evaluate.gate.mi", ["evaluate.gate.minimum="]),
        ("ctm compare --recipe ca", ["cam", "cam+affinity"]),
        ("ctm train-seg", ["train-segmenter"]),
    ],
)
def test_a_shell_completes_names(monkeypatch: pytest.MonkeyPatch, line: str, found: list[str]):
    asked = {"_CTM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    result = CliRunner().invoke(app, [], env=asked, prog_name="ctm")
    assert result.stdout.split() == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prune-heads --classifier {segmenter}", "holds a segmenter, no classifier"),
        ("prune-heads --classifier {shards}", "holds no readable model"),
        ("extract-pseudomasks --pruned {segmenter}", "holds a segmenter, no classifier"),
        ("train-classifier --shards {pseudomasks}", "holds masks, no images: name the folder that preprocess wrote"),
        ("train-segmenter --pseudomasks {shards}", "holds images, no masks: name the folder that extract-pseudomasks"),
        (
            "train-segmenter --pseudomasks {pseudomasks} --segmenter file",
            "--segmenter file: it is a file, and a folder",
        ),
        ("train-classifier --classifier file/x", "file is a file, no folder. Name another place."),
        ("train-classifier --metrics folder", "--metrics folder is a folder that ctm did not write"),
        ("train-classifier --metrics {pruned}", "it is a folder, and a file is to be written. Name another place."),
        ("compare --pruned {pruned} --report folder", "folder is a folder, which a file would replace: name a file."),
    ],
)
def test_paths_that_are_not_what_they_should_be(place: Path, pipeline: Any, words: str, message: str):
    succeed("init", "demo")
    (place / "file").touch()
    (place / "folder").mkdir()
    (place / "folder" / "mine").touch()
    artifacts = {port: pipeline.path(name, port) for name, stage in STAGES.items() for port in stage.outputs}
    if "--shards" not in words:
        words += " --shards {shards}"
    assert message in fail(*words.format(**artifacts).split())
    assert {path.name for path in place.rglob("*") if path.is_file()} == {"params.yaml", "file", "mine"}


def test_the_stages_that_go_on_where_they_were_say_so():
    resumable = [name for name, stage in STAGES.items() if stage.resumable]
    assert resumable == ["preprocess", "train_classifier", "train_segmenter"]
