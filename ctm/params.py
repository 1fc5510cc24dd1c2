"""params.yaml: every parameter of the pipeline, typed; presets; overrides from the command line."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, Field, model_validator

from ctm.data.config import DatasetConfig, PreprocessConfig
from ctm.errors import ParamsError
from ctm.evaluation.config import EvaluateConfig
from ctm.models.config import GatesConfig, ModelConfig, PruneHeadsConfig
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.recipes import needs_patch_head, without_patch_head
from ctm.runtime.context import Precision
from ctm.stage import Config
from ctm.training.config import TrainClassifierConfig, TrainSegmenterConfig
from ctm.validation import guess, read_config
from ctm.value_types import value_type

__all__ = [
    "Params",
    "load_params",
    "load_preset",
    "override_sections",
    "preset_names",
    "stage_config",
    "to_yaml",
    "yaml_value",
]

C = TypeVar("C", bound=Config)

UNBROKEN = "\0"
"""Stands for a space at which no line of a comment ends."""


class Params(Config):
    """All sections of params.yaml. A stage sees only the sections that its own config names."""

    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    """The one seed: weights, order of samples, masking, gates and augmentation all follow from it. At most 2^53, up to
    which Kubeflow carries integers exactly."""

    precision: Precision = "fp32"
    """Number format of matrix products in training; fp16 on a GPU only; fp64 to compare trainings digit by digit."""

    dataset: DatasetConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    model: ModelConfig
    gates: GatesConfig = GatesConfig()
    train_classifier: TrainClassifierConfig
    prune_heads: PruneHeadsConfig = PruneHeadsConfig()
    extract_pseudomasks: ExtractConfig = ExtractConfig()
    train_segmenter: TrainSegmenterConfig
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _fill_fits_background(self) -> Params:
        """Found here and not after hours of training: see ``ctm.pseudomasks.masks.check_fill``."""
        fill, background = self.extract_pseudomasks.fill, self.dataset.background
        if fill == "background" and background is None:
            raise ValueError("extract_pseudomasks.fill is background, but dataset.background names no class")
        if fill == "nearest" and background is not None:
            raise ValueError(
                f"extract_pseudomasks.fill is nearest, which would never paint dataset.background {background!r}: "
                "use background or ignore"
            )
        return self

    @model_validator(mode="after")
    def _patch_head_is_there(self) -> Params:
        """Found here and not after hours of training."""
        named = {
            "extract_pseudomasks.strategy": (self.extract_pseudomasks.strategy,),
            "evaluate.compare": self.evaluate.compare,
        }
        if self.extract_pseudomasks.strategy == "auto" and all(map(needs_patch_head, self.extract_pseudomasks.auto)):
            named["extract_pseudomasks.auto"] = self.extract_pseudomasks.auto
        for name, entries in named.items():
            wanting = [entry for entry in entries if needs_patch_head(entry)]
            if wanting and not self.model.patch_head:
                raise ValueError(f"{name}: {without_patch_head(wanting)}")
        return self

    @model_validator(mode="after")
    def _encoder_can_checkpoint(self) -> Params:
        """Found here and not after the classifier's training."""
        training = self.train_segmenter
        if training.grad_checkpointing and training.arch != "vit" and not training.encoder.startswith("tu-"):
            raise ValueError(
                f"train_segmenter.grad_checkpointing is true, but the encoder {training.encoder} of "
                "segmentation-models-pytorch has none: choose one of timm's, with the prefix tu-, or arch: vit"
            )
        return self

    @model_validator(mode="after")
    def _confidence_is_there(self) -> Params:
        """Found here and not after hours of training."""
        least = self.train_segmenter.min_confidence
        if least and not self.extract_pseudomasks.confidence:
            raise ValueError(
                f"train_segmenter.min_confidence is {least:g}, but extract_pseudomasks.confidence is false, so that "
                "masks have none: set it to true, or min_confidence to 0"
            )
        return self


def load_params(path: Path, overrides: Iterable[str] = ()) -> Params:
    """Reads params.yaml and applies ``section.name=value`` overrides, whose values are read as YAML.

    Raises:
        ParamsError: the file is missing or no YAML, or a name or value in it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file. Write one with `ctm init PRESET`; presets: {', '.join(preset_names())}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read as UTF-8 text: {error}.") from None
    return _parse(text, origin=str(path), overrides=overrides)


def load_preset(name: str, overrides: Iterable[str] = ()) -> Params:
    """The parameters of a preset that comes with ctm.

    Raises:
        ParamsError: there is no such preset, or an override is wrong.
    """
    if name not in preset_names():
        raise ParamsError(f"no preset {name!r}{guess(name, preset_names())} Presets: {', '.join(preset_names())}.")
    text = (resources.files("ctm.presets") / f"{name}.yaml").read_text(encoding="utf-8")
    return _parse(text, origin=f"preset {name}", overrides=overrides)


def preset_names() -> list[str]:
    """The presets that come with ctm, sorted."""
    files = resources.files("ctm.presets").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def stage_config(params: Params, config: type[C]) -> C:
    """The sections of ``params`` that a stage's config names, and no others."""
    return config.model_validate({name: getattr(params, name) for name in config.model_fields})


def override_sections(values: Mapping[str, Any], overrides: Iterable[str], config: type[Config]) -> dict[str, Any]:
    """``values`` of a stage's sections with the overrides of these sections; those of other stages change nothing.

    Raises:
        ParamsError: an override is no ``section.name=value``.
    """
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        section = override.partition("=")[0].split(".")[0].strip()
        if section in config.model_fields or section not in Params.model_fields:
            _override(changed, override)
    return changed


def to_yaml(params: Params) -> str:
    """params.yaml of ``params``: every value, with its meaning and what it may be above it."""
    return "\n".join(_yaml_lines(params, indent="")) + "\n"


def _parse(text: str, *, origin: str, overrides: Iterable[str]) -> Params:
    try:
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        hint = ": indent with spaces, YAML takes no tabs" if "'\\t'" in (error.problem or "") else ""
        raise ParamsError(f"{origin}, line {line}: no valid YAML: {error.problem}{hint}.") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{origin}: no valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{origin}: expected sections such as `dataset:`, found {type(values).__name__}.")
    for override in overrides:
        _override(values, override)
    return read_config(values, Params, origin=origin)


def _override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not all(name.strip().split(".")):
        raise ParamsError(f"--set {override}: expected section.name=value, such as train_classifier.epochs=3.")
    *sections, last = name.strip().split(".")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ParamsError(f"--set {override}: {section} is a value and has no parameters in it.")
    try:
        place[last] = _read_value(text)
    except yaml.YAMLError:
        raise ParamsError(f"--set {override}: {text!r} is no valid YAML value.") from None


def _read_value(text: str) -> Any:
    """A YAML value; numbers such as 1e-4, which YAML 1.1 takes for text, are numbers here."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _yaml_lines(config: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    schemas = type(config).model_json_schema()["properties"]
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        nested = isinstance(value, BaseModel)
        values = "" if nested else f"({value_type(schemas[name])})".replace(" ", UNBROKEN)
        about = type(value).__doc__ if nested else f"{field.description} {values}"
        blank = [""] if nested and not indent and lines else []
        comment = textwrap.wrap(" ".join((about or "").split()), 116 - len(indent))
        lines += [*blank, *(f"{indent}# {line.replace(UNBROKEN, ' ')}" for line in comment)]
        if nested:
            lines += [f"{indent}{name}:", *_yaml_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {yaml_value(config.model_dump(mode='json')[name])}")
    return lines


def yaml_value(value: Any) -> str:
    """A value as it stands in params.yaml, on one line."""
    if isinstance(value, float):
        text = repr(value)  # YAML 1.1 takes a number with an exponent for a number only where it has a point
        mantissa, exponent, power = text.partition("e")
        return text if not exponent or "." in mantissa else f"{mantissa}.0e{power}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
