"""The stage definition: configs are lax in types and strict in names, and ports that do not match fail at import."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from pydantic import ValidationError

from ctm.stage import Config, Kind, Metrics, Output, Profile, Ref, Source, Stage
from ctm.stages import STAGES


class SizeConfig(Config):
    """A size."""

    pixels: int = 64
    """Height and width
    in pixels."""


def stage(run: object, name: str = "make_things") -> Stage:
    return Stage(
        name=name,
        summary="Make things.",
        config=SizeConfig,
        run=run,  # type: ignore[arg-type]
        inputs={"raw": Source("dataset.root"), "shards": Ref("preprocess", "shards")},
        outputs={"things": Output(Kind.DATASET, "artifacts/things")},
        profile=Profile.CPU,
    )


def test_an_integer_may_come_as_a_whole_float_but_not_as_a_broken_one():
    size = SizeConfig.model_validate({"pixels": 224.0})
    assert size.pixels == 224
    assert type(size.pixels) is int
    with pytest.raises(ValidationError, match=r"pixels\n.*fractional part"):
        SizeConfig.model_validate({"pixels": 224.5})


def test_unknown_names_are_refused():
    with pytest.raises(ValidationError, match=r"pixel\n.*[Ee]xtra"):
        SizeConfig.model_validate({"pixel": 3})


def test_a_config_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        SizeConfig().pixels = 3  # type: ignore[misc]


def test_the_docstring_under_a_field_is_its_description():
    description = SizeConfig.model_fields["pixels"].description
    assert description is not None
    assert description.split() == ["Height", "and", "width", "in", "pixels."]


def test_a_stage_with_matching_ports_has_a_command_and_a_metrics_file():
    def run(config: SizeConfig, context: object, *, raw: Path, shards: Path, things: Path) -> Metrics:
        return {}

    made = stage(run)
    assert made.command == "make-things"
    assert made.metrics == Path("metrics/make_things.json")


def missing(config: object, context: object, *, raw: Path, things: Path) -> Metrics: ...
def misspelt(config: object, context: object, *, raw: Path, shard: Path, things: Path) -> Metrics: ...
def further(config: object, context: object, *, raw: Path, shards: Path, things: Path, more: Path) -> Metrics: ...
def positional(config: object, context: object, raw: Path, shards: Path, things: Path) -> Metrics: ...


@pytest.mark.parametrize("run", [missing, misspelt, further, positional])
def test_ports_that_run_does_not_take_are_refused(run: object):
    with pytest.raises(TypeError, match=r"stage 'make_things': run\(\) takes \[.*'raw', 'shards', 'things'"):
        stage(run)


def test_a_module_with_such_a_stage_does_not_import(tmp_path: Path):
    text = Path(importlib.util.find_spec("ctm.stages.prune_heads").origin).read_text()  # type: ignore[union-attr,arg-type]
    (tmp_path / "wrong.py").write_text(text.replace('{"pruned": Output', '{"prunned": Output'))
    spec = importlib.util.spec_from_file_location("wrong", tmp_path / "wrong.py")
    with pytest.raises(TypeError, match=r"'prune_heads'.*'prunned'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))  # type: ignore[union-attr,arg-type]


def test_every_input_is_the_output_of_a_stage_before():
    before: dict[str, Stage] = {}
    for name, one in STAGES.items():
        for source in one.inputs.values():
            assert isinstance(source, Source) or source.port in before[source.stage].outputs
        before[name] = one


def test_only_preprocess_reads_from_outside():
    outside = [name for name, one in STAGES.items() if any(isinstance(s, Source) for s in one.inputs.values())]
    assert outside == ["preprocess"]


def test_no_two_outputs_share_a_path():
    paths = [output.path for one in STAGES.values() for output in one.outputs.values()]
    paths += [one.metrics.as_posix() for one in STAGES.values()]
    assert len(set(paths)) == len(paths)


def test_the_segmenter_never_gets_the_classifier():
    assert set(STAGES["train_segmenter"].inputs) == {"shards", "pseudomasks"}
