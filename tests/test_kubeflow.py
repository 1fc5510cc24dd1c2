"""Kubeflow's executor protocol, with the executor inputs that its own code makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from typer.testing import CliRunner

from ctm.cli import app
from ctm.errors import ArtifactError, CtmError, ParamsError
from ctm.fingerprint import package_digest
from ctm.kubeflow import Task, decode_nulls, encode_nulls, local_path, scalars
from ctm.params import Params, load_preset, preset_names, read_config, stage_config
from ctm.runtime.digest import digest_artifact
from ctm.stages import JOINS, STAGES

METRICS = {
    "segmenter": {"val": {"miou": 0.5, "classes": {"cow": {"iou": 0.5}}, "kept": True}},
    "heads": {"kept": 6, "list": [1, 2], "note": None},
}


def executor_input(folder: Path, *, parameters: dict[str, Any], inputs: dict[str, Any], outputs: list[str]) -> str:
    """The executor input of a task whose outputs lie in ``folder``."""
    digests = [f"{port}_digest" for port in outputs if port not in ("metrics", "manifest")]
    message = {
        "inputs": {"parameterValues": parameters, "artifacts": {p: {"artifacts": a} for p, a in inputs.items()}},
        "outputs": {
            "artifacts": {port: {"artifacts": [{"name": port, "uri": str(folder / port)}]} for port in outputs},
            "parameters": {name: {"outputFile": str(folder / name)} for name in digests},
            "outputFile": str(folder / "executor_output.json"),
        },
    }
    parsed = json_format.ParseDict(message, pipeline_spec_pb2.ExecutorInput())
    return json_format.MessageToJson(parsed, indent=None)


def struct(stage: str, params: Params) -> str:
    """A stage's configuration as Kubeflow hands it over."""
    return json.dumps(encode_nulls(stage_config(params, STAGES[stage].config).model_dump(mode="json")))


@pytest.fixture
def preprocess_task(tmp_path: Path, demo_raw: Path, tiny_params: Params) -> list[str]:
    """The command of a preprocess task, all but its executor input."""
    places = {"shards": "shards", "contact-sheet": "contact_sheet", "metrics": "metrics", "manifest": "manifest"}
    ports = [word for flag, name in places.items() for word in (f"--{flag}", str(tmp_path / "task" / name))]
    rest = ["--checkpoints", str(tmp_path / "checkpoints"), "--set", "", "--label", "raw_data=abc"]
    return ["preprocess", "--raw", str(demo_raw), "--config", struct("preprocess", tiny_params), *ports, *rest]


OUTPUTS = ["shards", "contact_sheet", "metrics", "manifest"]


def test_a_stage_tells_kubeflow_of_its_outputs(tmp_path: Path, preprocess_task: list[str]):
    task = tmp_path / "task"
    text = executor_input(task, parameters={"code": package_digest()}, inputs={}, outputs=OUTPUTS)
    result = CliRunner().invoke(app, [*preprocess_task, "--executor-input", text])
    assert result.exit_code == 0, result.exception
    written = json.loads((task / "executor_output.json").read_text())
    parsed = json_format.ParseDict(written, pipeline_spec_pb2.ExecutorOutput())
    assert set(parsed.artifacts) == set(OUTPUTS)
    assert parsed.artifacts["metrics"].artifacts[0].metadata["train.samples"] == 24
    assert all(parsed.artifacts[port].artifacts[0].uri == str(task / port) for port in OUTPUTS)
    digest = digest_artifact(task / "shards")
    assert parsed.artifacts["shards"].artifacts[0].metadata["sha256"] == digest
    assert (task / "shards_digest").read_text() == digest
    assert (task / "contact_sheet_digest").read_text() == digest_artifact(task / "contact_sheet")
    assert json.loads((task / "manifest").read_text())["labels"] == {"raw_data": "abc"}


def test_another_code_than_the_submitted_is_refused(tmp_path: Path, preprocess_task: list[str]):
    text = executor_input(tmp_path / "task", parameters={"code": "0" * 64}, inputs={}, outputs=OUTPUTS)
    result = CliRunner().invoke(app, [*preprocess_task, "--executor-input", text])
    assert isinstance(result.exception, ParamsError)
    assert "this image holds other code" in str(result.exception)
    assert not (tmp_path / "task").exists()


@pytest.fixture
def refused(tmp_path: Path, tiny_params: Params) -> Callable[[Path, str], str]:
    """The message with which train-classifier refuses shards for which a digest was told."""

    def train(shards: Path, digest: str) -> str:
        listed = {"shards": [{"name": "shards", "uri": str(shards)}]}
        text = executor_input(tmp_path, parameters={"shards_digest": digest}, inputs=listed, outputs=["classifier"])
        words = ["--shards", str(shards), "--config", struct("train_classifier", tiny_params), "--executor-input", text]
        result = CliRunner().invoke(app, ["train-classifier", *words])
        assert isinstance(result.exception, ArtifactError)
        return str(result.exception)

    return train


def test_an_input_that_is_not_what_was_written_is_refused(tiny_shards: Any, refused: Callable[[Path, str], str]):
    message = refused(tiny_shards.path, "f" * 64)
    assert "input --shards is not what was written for it" in message
    assert "ffffffffffff" in message


def test_lists_come_from_the_executor_input_in_their_order():
    listed = [{"name": "x", "uri": uri} for uri in ("s3://b/x/2", "minio://m/1", "gs://g/3", "/local/4")]
    text = executor_input(Path("/t"), parameters={"parts_digest": ["a", "b"]}, inputs={"parts": listed}, outputs=[])
    task = Task.parse(text)
    assert list(map(str, task.paths("parts"))) == ["/s3/b/x/2", "/minio/m/1", "/gcs/g/3", "/local/4"]
    assert task.paths("others") == []
    with pytest.raises(ArtifactError, match="gs://, minio://, s3:// only"):
        local_path("oci://image")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_what_is_no_executor_input_is_told(text: str):
    with pytest.raises(CtmError, match="--executor-input is not what Kubeflow writes"):
        Task.parse(text)


def test_scalars_leave_out_lists_nulls_single_classes_and_numbers_that_json_does_not_know():
    assert dict(scalars(METRICS)) == {"segmenter.val.miou": 0.5, "heads.kept": 6}
    assert dict(scalars({"loss": float("nan"), "map": float("inf"), "kept": 1})) == {"kept": 1}


def test_the_confusion_matrix_is_that_of_kubeflow(tmp_path: Path):
    from kfp import dsl

    names, rows = ["cow", "grass"], [[3, 1], [0, 5]]
    expected = dsl.ClassificationMetrics()
    expected.log_confusion_matrix(names, rows)
    stage = STAGES["evaluate"]
    places = {port: tmp_path / port for port in stage.outputs}
    places["report"].write_text("<p>")
    places["confusion"].write_text(json.dumps({"classes": names, "rows": rows}))
    record = {port: {"path": str(place), "sha256": "0" * 64} for port, place in places.items()}
    (tmp_path / "metrics").write_text(json.dumps(METRICS))
    (tmp_path / "manifest").write_text(json.dumps({"fingerprint": "f", "outputs": record}))
    ports = ["report", "confusion", "metrics", "manifest"]
    task = Task.parse(executor_input(tmp_path, parameters={}, inputs={}, outputs=ports))
    task.finish(stage, metrics=tmp_path / "metrics", manifest=tmp_path / "manifest")
    written = json.loads((tmp_path / "executor_output.json").read_text())["artifacts"]["confusion"]["artifacts"][0]
    assert written["metadata"]["confusionMatrix"] == expected.metadata["confusionMatrix"]


def test_nulls_survive_the_way_through_a_struct():
    values = {"a": None, "b": {"c": None, "d": [1, None], "e": "x"}}
    assert encode_nulls(values) == {"a": "null", "b": {"c": "null", "d": [1, None], "e": "x"}}
    assert decode_nulls(encode_nulls(values)) == values


def test_the_text_null_is_no_value_that_a_parameter_may_have():
    with pytest.raises(ParamsError, match="'null' stands for null"):
        encode_nulls({"dataset": {"background": "null"}})


def as_floats(value: Any) -> Any:
    """What Kubeflow makes of a struct: every number is a double, and the order of names is by chance."""
    if isinstance(value, dict):
        return {name: as_floats(item) for name, item in reversed(value.items())}
    if isinstance(value, list):
        return [as_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@pytest.mark.parametrize("preset", preset_names())
def test_every_parameter_survives_the_way_through_a_struct(preset: str):
    params = load_preset(preset)
    for stage in (STAGES | JOINS).values():
        config = stage_config(params, stage.config)
        values = config.model_dump(mode="json")
        struct = json.loads(json.dumps(as_floats(encode_nulls(values))))
        read = read_config(decode_nulls(struct), stage.config, origin="struct").model_dump(mode="json")
        assert json.dumps(read) == json.dumps(values)  # 3 is not 3.0 there


def test_shards_that_were_damaged_on_their_way_are_refused(
    tmp_path: Path, tiny_shards: Any, refused: Callable[[Path, str], str]
):
    shards = shutil.copytree(tiny_shards.path, tmp_path / "shards")
    tar = next(shards.glob("train-*.tar"))
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    message = refused(shards, digest_artifact(shards))  # that of index.json, which is whole
    assert f"{tar} of input --shards is not what its index.json says" in message
