"""One run of a stage: outputs, metrics and manifest appear together, checkpoints go after success alone."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ctm.errors import ArtifactError, DataError
from ctm.execute import RunOptions, execute, manifest_path
from ctm.runtime.context import Context, Part
from ctm.runtime.digest import digest_artifact
from ctm.runtime.storage import Tree, listing_digest, open_tree
from ctm.stage import Config, Kind, Metrics, Output, Parts, Profile, Ref, Source, Stage


class CountConfig(Config):
    """How a text is repeated."""

    times: int = 2
    """How often."""
    fail: bool = False
    """Whether the run ends in an error."""


def run(config: CountConfig, context: Context, *, raw: Tree, text: Path, result: Path, page: Path) -> Metrics:
    context.checkpoints.mkdir(parents=True, exist_ok=True)
    seen = context.checkpoints / "runs"
    runs = len(seen.read_text()) if context.resume and seen.exists() else 0
    seen.write_text("x" * (runs + 1))
    result.mkdir()
    (result / "index.json").write_text("{}")  # every folder that a stage writes has one, or a model.json
    (result / "text").write_text(text.read_text() * config.times)
    page.write_text(f"{len(raw.files)} files")
    context.timings["writing"] = 0.25
    if config.fail:
        raise DataError(f"failed in run {runs + 1}")
    return {"train": {"length": (result / "text").stat().st_size}, "runs": runs + 1}


STAGE = Stage(
    name="repeat_text",
    summary="Repeat a text.",
    config=CountConfig,
    run=run,
    inputs={"raw": Source("dataset.root"), "text": Ref("write_text", "text")},
    outputs={"result": Output(Kind.DATASET, "result"), "page": Output(Kind.REPORT, "page.html")},
    profile=Profile.CPU,
    shown=("train.length", "val.length"),
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, outside any checkout, with the inputs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a").write_text("1")
    (tmp_path / "text").write_text("ab")
    return tmp_path


def go(config: CountConfig | None = None, *, times: int = 2, fail: bool = False, resume: bool = True) -> Metrics:
    return execute(
        STAGE,
        config or CountConfig(times=times, fail=fail),
        inputs={"raw": Path("raw"), "text": Path("text")},
        outputs={"result": Path("out/result"), "page": Path("out/page.html")},
        options=RunOptions(metrics=Path("metrics/repeat_text.json"), checkpoints=Path("ckpt"), resume=resume),
    )


def manifest() -> Any:
    return json.loads(Path("metrics/repeat_text.manifest.json").read_text())


def files(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_outputs_metrics_and_manifest_are_written(place: Path):
    assert go() == {"train": {"length": 4}, "runs": 1}
    assert files(place) == {
        "raw/a",
        "text",
        "out/result/index.json",
        "out/result/text",
        "out/page.html",
        "metrics/repeat_text.json",
        "metrics/repeat_text.manifest.json",
    }
    assert json.loads(Path("metrics/repeat_text.json").read_text()) == {"train": {"length": 4}, "runs": 1}
    assert manifest_path(Path("metrics/repeat_text.json")) == Path("metrics/repeat_text.manifest.json")


def test_the_screen_shows_the_figures_that_the_stage_names_where_there_are_any(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger="ctm")
    go()
    assert re.search(r"wrote out/result, out/page.html in \d+ s; train.length 4$", caplog.text, re.M)


def test_the_manifest_tells_what_the_run_was_made_of():
    go(times=3)
    found = manifest()
    assert found["stage"] == "repeat_text"
    assert re.fullmatch("[0-9a-f]{64}", found["fingerprint"])
    assert found["config"] == {"times": 3, "fail": False}
    assert found["inputs"] == {
        "raw": {"path": "raw", "sha256": listing_digest(open_tree("raw"))},
        "text": {"path": "text", "sha256": digest_artifact(Path("text"))},
    }
    assert found["outputs"]["result"] == {"path": "out/result", "sha256": digest_artifact(Path("out/result"))}
    assert found["timings"] == {"writing": 0.25}
    assert found["git"] is None
    assert {"ctm", "libraries", "python", "host", "started", "seconds"} <= set(found)


def test_the_manifest_names_the_revision_and_whether_it_was_changed(place: Path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", *identity, *arguments], cwd=place, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", "text")
    git("commit", "--quiet", "-m", "text")
    go()
    assert manifest()["git"] == {"revision": git("rev-parse", "HEAD"), "dirty": False}
    (place / "text").write_text("cd")
    go()
    assert manifest()["git"]["dirty"] is True


def test_the_same_run_gives_the_same_bytes_and_only_the_manifest_may_differ(place: Path):
    def everything() -> dict[str, bytes]:
        return {name: (place / name).read_bytes() for name in files(place) if "manifest" not in name}

    go()
    first, fingerprint = everything(), manifest()["fingerprint"]
    go()
    assert everything() == first
    assert manifest()["fingerprint"] == fingerprint
    assert not re.search("seconds|time|host|git", Path("metrics/repeat_text.json").read_text())


def test_a_failed_run_changes_nothing_and_keeps_its_checkpoints(place: Path):
    go()
    before = {name: (place / name).read_bytes() for name in files(place)}
    with pytest.raises(DataError, match="failed in run 1"):
        go(times=5, fail=True)
    after = {name: (place / name).read_bytes() for name in files(place)}
    kept = {name for name in after if name.startswith("ckpt/repeat_text/")}
    assert len(kept) == 1
    assert {name: data for name, data in after.items() if name not in kept} == before


def test_a_failed_first_run_leaves_no_output(place: Path):
    with pytest.raises(DataError):
        go(fail=True)
    assert {name for name in files(place) if not name.startswith("ckpt/")} == {"raw/a", "text"}


def test_the_next_try_of_the_very_same_run_finds_its_checkpoints():
    for number in (1, 2):
        with pytest.raises(DataError, match=f"failed in run {number}"):
            go(fail=True)
    with pytest.raises(DataError, match="failed in run 1"):
        go(fail=True, resume=False)


def test_other_parameters_or_inputs_never_meet_these_checkpoints(place: Path):
    with pytest.raises(DataError, match="failed in run 1"):
        go(fail=True)
    with pytest.raises(DataError, match="failed in run 1"):
        go(fail=True, times=3)
    (place / "text").write_text("cd")
    with pytest.raises(DataError, match="failed in run 1"):
        go(fail=True)
    (place / "raw" / "b").write_text("2")
    with pytest.raises(DataError, match="failed in run 1"):
        go(fail=True)


def test_a_missing_input_names_the_stage_that_writes_it(place: Path):
    (place / "text").unlink()
    with pytest.raises(ArtifactError, match=r"repeat-text: input --text text is missing.*stage write-text.*dvc repro"):
        go()
    assert files(place) == {"raw/a"}


def test_a_folder_that_no_stage_wrote_is_never_replaced():
    Path("out/result").mkdir(parents=True)
    Path("out/result/thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"--result out/result is a folder that ctm did not write"):
        go()
    assert Path("out/result/thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("target", ["raw", "raw/inside", ".", "text"])
def test_an_output_that_overlaps_an_input_is_refused(target: str):
    with pytest.raises(ArtifactError, match=r"--result .* overlaps --(raw|text) "):
        execute(
            STAGE,
            CountConfig(),
            inputs={"raw": Path("raw"), "text": Path("text")},
            outputs={"result": Path(target), "page": Path("out/page.html")},
            options=RunOptions(metrics=Path("metrics/repeat_text.json"), checkpoints=Path("ckpt")),
        )
    assert Path("raw/a").read_text() == "1"
    assert Path("text").read_text() == "ab"


def test_weights_that_change_under_one_name_make_another_run():
    class Start(Config):
        pretrained: str = "vit.safetensors"

        @property
        def weights_file(self) -> Path:
            return Path(self.pretrained)

    class StartConfig(CountConfig):
        model: Start = Start()

    found = []
    for content in ("one", "two", "two"):
        Path("vit.safetensors").write_text(content)
        go(StartConfig())
        found.append(manifest())
    assert found[0]["fingerprint"] != found[1]["fingerprint"]
    assert found[1]["fingerprint"] == found[2]["fingerprint"]
    assert found[2]["pretrained"] == {"model": digest_artifact(Path("vit.safetensors"))}


def join(config: CountConfig, context: Context, *, text: Path, pieces: list[Path], whole: Path) -> Metrics:
    whole.write_text(text.read_text() + "".join(piece.read_text() for piece in pieces))
    context.checkpoints.mkdir(parents=True)  # so that it can be seen where it lies
    if config.fail:
        raise DataError("failed")
    return {"pieces": len(pieces)}


JOIN = Stage(
    name="join_pieces",
    summary="Put pieces together.",
    config=CountConfig,
    run=join,
    inputs={"text": Ref("write_text", "text"), "pieces": Parts("write_pieces", "piece")},
    outputs={"whole": Output(Kind.REPORT, "whole.txt")},
    profile=Profile.CPU,
    divisible=True,
)


def go_joining(
    *, fail: bool = False, expected: dict[str, list[str]] | None = None, part: Part | None = None
) -> Metrics:
    """Joins two pieces and writes the manifest where it is told to."""
    Path("1").write_text("x")
    Path("2").write_text("y")
    options = RunOptions(
        metrics=Path("numbers"),
        manifest=Path("record"),
        checkpoints=Path("ckpt"),
        part=part or Part(2, 3),
        labels={"run": "first"},
        expected=expected or {},
    )
    inputs = {"text": Path("text"), "pieces": [Path("2"), Path("1")]}
    return execute(JOIN, CountConfig(fail=fail), inputs=inputs, outputs={"whole": Path("whole")}, options=options)


def test_a_list_of_parts_is_handed_on_in_its_order(place: Path):
    assert go_joining() == {"pieces": 2}
    assert (place / "whole").read_text() == "abyx"
    record = json.loads((place / "record").read_text())
    digests = [digest_artifact(place / name) for name in ("2", "1")]
    assert record["inputs"]["pieces"] == [{"path": p, "sha256": d} for p, d in zip("21", digests, strict=True)]
    assert record["labels"] == {"run": "first"}
    assert record["part"] == "2/3"


def test_each_part_has_checkpoints_of_its_own(place: Path):
    for part in (Part(1, 3), Part(2, 3)):
        with pytest.raises(DataError):
            go_joining(fail=True, part=part)
    assert len(list((place / "ckpt/join_pieces").iterdir())) == 2


def test_inputs_must_have_the_digests_that_are_known(place: Path):
    digests = [digest_artifact(place / "text")]
    go_joining(expected={"text": digests})
    with pytest.raises(ArtifactError, match=r"input --pieces is not what was written for it: .*It was changed"):
        go_joining(expected={"text": digests, "pieces": digests * 2})


def test_a_missing_part_is_named():
    options = RunOptions(metrics=Path("numbers"))
    inputs = {"text": Path("text"), "pieces": [Path("text"), Path("gone")]}
    with pytest.raises(ArtifactError, match="input --pieces gone is missing"):
        execute(JOIN, CountConfig(), inputs=inputs, outputs={"whole": Path("whole")}, options=options)


def test_an_image_without_git_has_the_revision_of_its_build(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CTM_GIT_REVISION", "abc-dirty")
    go()
    assert manifest()["git"] == {"revision": "abc", "dirty": True}


def test_the_run_that_kubeflow_names_is_recorded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CTM_RUN", "1234")
    go()
    assert manifest()["labels"] == {"run": "1234"}
