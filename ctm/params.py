"""params.yaml: every parameter of the pipeline, typed; presets; overrides from the command line."""

from __future__ import annotations

import copy
import difflib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from ctm.data.config import DatasetConfig, PreprocessConfig
from ctm.errors import ParamsError
from ctm.evaluation.config import EvaluateConfig
from ctm.models.config import GatesConfig, ModelConfig, PruneHeadsConfig
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.recipes import needs_patch_head, without_patch_head
from ctm.runtime.context import Precision
from ctm.stage import Config
from ctm.training.config import TrainClassifierConfig, TrainSegmenterConfig

__all__ = [
    "Params",
    "load_params",
    "load_preset",
    "override_sections",
    "preset_names",
    "read_config",
    "stage_config",
    "to_yaml",
]

C = TypeVar("C", bound=Config)


class Params(Config):
    """All sections of params.yaml. A stage sees only the sections that its own config names."""

    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    """The one seed: weights, order of samples, masking, gates and augmentation all follow from it. At most 2^53, up to
    which Kubeflow carries integers exactly."""

    precision: Precision = "fp32"
    """Number format of matrix products in training: fp32, bf16, or fp16 (GPU only)."""

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
        raise ParamsError(f"no preset {name!r}{_guess(name, preset_names())} Presets: {', '.join(preset_names())}.")
    text = (resources.files("ctm.presets") / f"{name}.yaml").read_text(encoding="utf-8")
    return _parse(text, origin=f"preset {name}", overrides=overrides)


def preset_names() -> list[str]:
    """The presets that come with ctm, sorted."""
    files = resources.files("ctm.presets").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def stage_config(params: Params, config: type[C]) -> C:
    """The sections of ``params`` that a stage's config names, and no others."""
    return config.model_validate({name: getattr(params, name) for name in config.model_fields})


def read_config(values: Mapping[str, Any], config: type[C], *, origin: str) -> C:
    """Validates plain values as a config.

    Raises:
        ParamsError: one line for each wrong name or value, with where it is and what would be right.
    """
    try:
        return config.model_validate(values)
    except ValidationError as error:
        found: dict[tuple[str, ...], list[Any]] = {}
        for detail in error.errors():
            found.setdefault(_place(detail["loc"], config), []).append(detail)
        lines = [_explain(place, details, config) for place, details in found.items()]
        raise ParamsError(f"{origin}: " + "\n".join(lines)) from None


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
    """params.yaml of ``params``: every value, with its description above it."""
    return "\n".join(_yaml_lines(params, indent="")) + "\n"


def _parse(text: str, *, origin: str, overrides: Iterable[str]) -> Params:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ParamsError(f"{origin}: no valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{origin}: expected sections such as `dataset:`, found {type(values).__name__}.")
    for override in overrides:
        _override(values, override)
    return read_config(values, Params, origin=origin)


def _override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
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


def _place(loc: Iterable[int | str], config: type[BaseModel]) -> tuple[str, ...]:
    """The parameter that an error is about: pydantic goes on with the item, or with the alternative that it tried."""
    place: list[str] = []
    section: type[BaseModel] | None = config
    for part in loc:
        if section is None:
            break
        place.append(str(part))
        section = _section(section, str(part))
    return tuple(place)


def _explain(place: Sequence[str], details: Sequence[Any], config: type[BaseModel]) -> str:
    """One line for all that is wrong with one parameter: where, what, and what to do."""
    name, first = ".".join(place), details[0]
    if first["type"] == "extra_forbidden":
        valid = _names_at(config, place[:-1])
        return f"unknown parameter {name}{_guess(place[-1], valid, config)} Parameters there: {', '.join(valid)}."
    if first["type"] == "missing" and first["loc"] == tuple(place):
        return f"parameter {name} is missing: give it a value, or start from a preset with `ctm init PRESET`."
    messages = dict.fromkeys(_message(detail, name) for detail in details)
    found = "" if isinstance(first["input"], dict) else f" (found {first['input']!r})"
    return f"{name or 'parameters'}: {'; or: '.join(messages)}{found}."


def _message(detail: Any, name: str) -> str:
    """What pydantic or a validator of ours says, without frills."""
    return str(detail["msg"]).removeprefix("Value error, ").removeprefix(f"{name}: ").removesuffix(".")


def _section(config: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section that a field holds, or None where it holds a value or does not exist."""
    annotation: Any = config.model_fields[name].annotation if name in config.model_fields else None
    return annotation if _is_config(annotation) else None


def _names_at(config: type[BaseModel], sections: Iterable[str]) -> list[str]:
    """Names of the fields of the section that ``sections`` leads to."""
    for name in sections:
        config = _section(config, name) or config
    return list(config.model_fields)


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _guess(name: str, valid: Iterable[str], config: type[BaseModel] | None = None) -> str:
    """The end of a sentence about an unknown name: what may have been meant, if anything comes close."""
    valid = list(valid)
    inside = [f"{s}.{name}" for s in valid if config and (held := _section(config, s)) and name in held.model_fields]
    close = inside or difflib.get_close_matches(name, valid, n=1)
    return f": did you mean {' or '.join(close)}?" if close else "."


def _yaml_lines(config: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        nested = isinstance(value, BaseModel)
        about = (type(value).__doc__ if nested else field.description) or ""
        blank = [""] if nested and not indent and lines else []
        comment = textwrap.wrap(" ".join(about.split()), 116 - len(indent))
        lines += [*blank, *(f"{indent}# {line}" for line in comment)]
        if nested:
            lines += [f"{indent}{name}:", *_yaml_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_yaml_value(config.model_dump(mode='json')[name])}")
    return lines


def _yaml_value(value: Any) -> str:
    if isinstance(value, float):
        text = repr(value)  # YAML 1.1 takes a number with an exponent for a number only where it has a point
        mantissa, exponent, power = text.partition("e")
        return text if not exponent or "." in mantissa else f"{mantissa}.0e{power}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
