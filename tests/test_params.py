"""params.yaml: presets, overrides, what is refused and how, and the way to text and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctm.errors import ParamsError
from ctm.params import Params, load_params, load_preset, preset_names, read_config, stage_config, to_yaml
from ctm.stage import Stage
from ctm.stages import STAGES


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(to_yaml(load_preset("demo")))
    return path


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All values in nested mappings and lists, with where they are."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not isinstance(value, (dict, list)):
        yield place, value
    for name, inner in items:
        yield from leaves(inner, f"{place}.{name}")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_being_written_and_read(name: str, tmp_path: Path):
    params = load_preset(name)
    path = tmp_path / "params.yaml"
    path.write_text(to_yaml(params), encoding="utf-8")
    assert load_params(path) == params
    assert to_yaml(load_params(path)) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", preset_names())
def test_yaml_itself_reads_every_value_with_its_type(name: str):
    params = load_preset(name, ["train_classifier.lr=1e-5", "train_segmenter.lr=3e-07", "prune_heads.tolerance=1e-4"])
    read = dict(leaves(yaml.safe_load(to_yaml(params))))
    values = params.model_dump(mode="json")
    values["evaluate"]["gate"] = params.evaluate.gate.model_dump(mode="json")  # left out for the stages
    assert read == dict(leaves(values))
    assert {place: type(value) for place, value in read.items()} == {
        place: type(value) for place, value in leaves(values)
    }
    assert (read[".train_classifier.lr"], read[".train_segmenter.lr"]) == (1e-5, 3e-7)


def test_every_parameter_is_explained_in_the_file():
    lines = to_yaml(load_preset("demo")).splitlines()
    values = [number for number, line in enumerate(lines) if line and not line.strip().startswith("#")]
    assert all(lines[number - 1].strip().startswith("#") for number in values[1:])
    assert max(map(len, lines)) <= 120


def test_the_committed_parameters_are_the_preset_demo(repository: Path):
    current = (repository / "params.yaml").read_text(encoding="utf-8")
    assert current == to_yaml(load_preset("demo")), "run `ctm init demo --force` and commit the result"


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stage_reads_sections_of_params_with_their_types(stage: Stage):
    for name, field in stage.config.model_fields.items():
        assert field.annotation == Params.model_fields[name].annotation


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stage_sees_its_own_sections_only(stage: Stage):
    params = load_preset("demo", ["seed=7"])
    config = stage_config(params, stage.config)
    assert set(config.model_dump()) == set(stage.config.model_fields)
    assert all(getattr(config, name) == getattr(params, name) for name in stage.config.model_fields)


def test_every_parameter_but_the_seed_is_read_by_some_stage_before_evaluate():
    read = {name for stage in STAGES.values() if stage.name != "evaluate" for name in stage.config.model_fields}
    assert set(Params.model_fields) - read == {"evaluate"}


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("seed=3", "seed", 3),
        ("train_classifier.lr=1e-4", "train_classifier.lr", 1e-4),
        ("train_classifier.epochs=20.0", "train_classifier.epochs", 20),
        ("train_classifier.augment.flip=none", "train_classifier.augment.flip", "none"),
        ("train_classifier.betas=[0.8, 0.9]", "train_classifier.betas", (0.8, 0.9)),
        ("train_classifier.clip_grad_norm=null", "train_classifier.clip_grad_norm", None),
        ("gates.hard=false", "gates.hard", False),
        ("model.image_size=[32, 64]", "model.image_size", (32, 64)),
        ("model.pretrained=weights/a=b.safetensors", "model.pretrained", "weights/a=b.safetensors"),
        ("model.pretrained=true", "model.pretrained", True),
        ("train_segmenter.options={a: {b: 1}}", "train_segmenter.options", {"a": {"b": 1}}),
        ("train_segmenter.options.encoder_depth=4", "train_segmenter.options.encoder_depth", 4),
        ("evaluate.compare=[]", "evaluate.compare", ()),
        (" precision = bf16", "precision", "bf16"),
        ("dataset.root=", "dataset.root", None),
    ],
)
def test_overrides_are_yaml(demo: Path, override: str, place: str, value: object):
    if value is None and place == "dataset.root":
        with pytest.raises(ParamsError, match=r"dataset\.root: .*string"):
            load_params(demo, [override])
        return
    found: Any = load_params(demo, [override])
    for part in place.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_the_last_override_wins(demo: Path):
    assert load_params(demo, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train_classifier.epoch=3",
            "parameter train_classifier.epoch: did you mean epochs? Parameters there: epochs,",
        ),
        ("train_clasifier.epochs=3", "unknown parameter train_clasifier: did you mean train_classifier?"),
        ("epochs=3", "parameter epochs: did you mean train_classifier.epochs or train_segmenter.epochs? Parameters"),
        ("colour=3", "unknown parameter colour. Parameters there: seed, precision, dataset"),
        ("train_classifier.augment.flp=none", "unknown parameter train_classifier.augment.flp: did you mean flip?"),
        ("model.imagesize=64", "unknown parameter model.imagesize: did you mean image_size?"),
        ("seed.value=3", "seed is a value and has no parameters in it"),
        ("seed", "expected section.name=value, such as"),
        ("=3", "--set =3: expected section.name=value, such as"),
        ("model..depth=3", "expected section.name=value, such as"),
        ("train_classifier.epochs=many", "train_classifier.epochs: Input should be a valid integer"),
        ("train_classifier.epochs=2.5", "train_classifier.epochs: Input should be a valid integer"),
        ("train_classifier.epochs=0", "train_classifier.epochs: Input should be greater than or equal to 1 (found 0)"),
        ("train_classifier.masking_ratio=1", "train_classifier.masking_ratio: Input should be less than 1 (found 1)"),
        ("train_classifier.lr=-1e-4", "train_classifier.lr: Input should be greater than 0 (found -0.0001)"),
        ("train_classifier.warmup_epochs=13", "warmup_epochs (13) is more than epochs (12)"),
        ("precision=fp8", "precision: Input should be 'fp32', 'bf16', 'fp16' or 'fp64' (found 'fp8')"),
        ("evaluate.compare=[relevence]", "evaluate.compare: cannot read 'relevence'"),
        ("evaluate.compare=random", "evaluate.compare: Input should be a valid tuple"),
        ("train_classifier.betas=[0.9", "'[0.9' is no valid YAML value"),
        ("dataset=demo", "dataset: Input should be a valid dictionary"),
        (
            "model.image_size=224.5",
            "model.image_size: Input should be a valid integer, got a number with a fractional part",
        ),
        ("model.image_size=[32, 4.5]", "model.image_size: Input should be a valid integer"),
        ("train_classifier.lr=.inf", "train_classifier.lr: Input should be a finite number"),
        ("train_segmenter.grad_checkpointing=true", "the encoder resnet18 of segmentation-models-pytorch has none"),
        ("train_segmenter.min_confidence=0.5", "but extract_pseudomasks.confidence is false"),
        ("train_classifier.masking_warmup_epochs=99", "masking_warmup_epochs (99) is more than epochs (12)"),
        (
            "extract_pseudomasks={strategy: auto, auto: [cam, fused]}",
            "extract_pseudomasks.auto: cam, fused reads the patch head, which the classifier does not have",
        ),
        (
            "extract_pseudomasks={tokens: candidates, label_source: predicted}",
            "tokens is candidates, which must be known before the classifier has run, but label_source is predicted",
        ),
        ("model.head=diag", "model.head: Input should be 'dense' or 'diagonal' (found 'diag')"),
        ("extract_pseudomasks.fill=background", "fill is background, but dataset.background names no class"),
        ("dataset.background=Water", "fill is nearest, which would never paint dataset.background 'Water'"),
        ("train_classifier.betas=[0.9]", "train_classifier.betas: Field required"),
        ("seed=-1", "seed: Input should be greater than or equal to 0 (found -1)"),
    ],
)
def test_a_wrong_override_gives_one_line_that_says_what_and_where(demo: Path, override: str, message: str):
    with pytest.raises(ParamsError) as error:
        load_params(demo, [override])
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_each_mistake_gets_a_line_of_its_own(demo: Path):
    with pytest.raises(ParamsError) as error:
        load_params(demo, ["seed=x", "gates.betta=1", "model.depth=0"])
    assert len(str(error.value).splitlines()) == 3
    assert str(error.value).startswith(str(demo))


def test_a_missing_parameter_is_named(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("dataset: {format: folder}\nmodel: {}\ntrain_classifier: {epochs: 2}\ntrain_segmenter: {epochs: 2}")
    with pytest.raises(ParamsError, match=r"parameter dataset\.root is missing: give it a value"):
        load_params(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "line 1: no valid YAML"),
        ("seed: 0\ndataset:\n\tformat: folder", "line 3: no valid YAML: .*: indent with spaces, YAML takes no tabs"),
        ("- a\n- b", "expected sections such as `dataset:`, found list"),
        ("", "expected sections such as `dataset:`, found NoneType"),
    ],
)
def test_a_file_that_holds_no_sections_is_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=message) as error:
        load_params(path)
    assert str(path) in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xff\xfe\x00seed")
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        load_params(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ParamsError, match=r"params\.yaml: no such file.*ctm init PRESET.*demo"):
        load_params(tmp_path / "params.yaml")


def test_an_unknown_preset_is_answered_with_the_closest_and_all():
    with pytest.raises(ParamsError, match=r"no preset 'dmo': did you mean demo.*Presets: .*demo.*photographs"):
        load_preset("dmo")


def test_whole_floats_are_read_as_kubeflow_sends_them():
    config = STAGES["train_classifier"].config
    values = stage_config(load_preset("demo"), config).model_dump(mode="json")
    sent = {**values, "seed": 0.0, "model": {**values["model"], "image_size": 64.0, "depth": 4.0}}
    assert read_config(sent, config, origin="--config") == read_config(values, config, origin="--config")
    sent["model"]["image_size"] = 64.5
    with pytest.raises(ParamsError, match=r"^--config: model\.image_size"):
        read_config(sent, config, origin="--config")
