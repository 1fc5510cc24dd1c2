"""The segmenter: an architecture of segmentation-models-pytorch by name, built, written and read."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from torch import nn

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.errors import ModelError
from ctm.models.folder import read_model, write_model
from ctm.models.weights import DOWNLOAD_HINT, check_weights

__all__ = ["SegmenterSpec", "build_segmenter", "load_segmenter", "save_segmenter"]

OWN_ARGUMENTS = ("encoder_name", "encoder_weights", "in_channels", "classes")
"""Arguments of an architecture that are given by other parameters than ``options``."""


@dataclass(frozen=True)
class SegmenterSpec:
    """Architecture, encoder and further arguments, by the names of segmentation-models-pytorch."""

    arch: str
    encoder: str
    options: Mapping[str, Any]


def build_segmenter(
    spec: SegmenterSpec, inputs: InputSpec, *, num_classes: int, pretrained: bool | str = False
) -> nn.Module:
    """Builds a segmenter that maps images (B, Ch, H, W) to logits (B, K, H, W).

    Args:
        spec: names and options.
        inputs: number of channels and image size; the size is tried out once.
        num_classes: K, the number of mask values.
        pretrained: False; True for the encoder's published weights; or a safetensors file for a ``tu-`` encoder.

    Raises:
        ModelError: an unknown name, an option the architecture does not take, missing weights, or an image size that
            the architecture cannot work at.
    """
    if spec.arch not in _architectures():
        close = difflib.get_close_matches(spec.arch, _architectures(), n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ModelError(f"train_segmenter.arch: no {spec.arch!r}.{hint} Valid: {', '.join(_architectures())}.")
    _check_options(spec)
    hint = f" {DOWNLOAD_HINT}" if pretrained is True else ""
    published = True if spec.encoder.startswith("tu-") else "imagenet"  # timm's encoders have no choice of weights
    try:
        model: nn.Module = smp.create_model(
            spec.arch,
            encoder_name=spec.encoder,
            encoder_weights=published if pretrained else None,
            in_channels=inputs.channels,
            classes=num_classes,
            **_options(spec, inputs, pretrained),
        )
    except (AssertionError, KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise ModelError(
            f"train_segmenter: cannot build {spec.arch} with encoder {spec.encoder} and options "
            f"{dict(spec.options)}: {error}.{hint}"
        ) from error
    if isinstance(pretrained, str):
        encoder: Any = model.encoder  # timm's model is inside the library's wrapper
        check_weights(pretrained, encoder.model, parameter="train_segmenter.pretrained")
    _try_size(model, spec, inputs)
    return model


def save_segmenter(
    folder: Path, model: nn.Module, spec: SegmenterSpec, *, classes: ClassTable, inputs: InputSpec
) -> None:
    """Writes a segmenter; see ``write_model``."""
    write_model(folder, model, classes=classes, inputs=inputs, about={"spec": asdict(spec)})


def load_segmenter(folder: Path) -> tuple[nn.Module, ClassTable, InputSpec]:
    """Rebuilds what ``save_segmenter`` wrote; see ``read_model``.

    Raises:
        ArtifactError: a file is missing, damaged, of another format, or the two do not belong together.
    """

    def build(about: Mapping[str, Any], classes: ClassTable, inputs: InputSpec) -> nn.Module:
        return build_segmenter(SegmenterSpec(**about["spec"]), inputs, num_classes=len(classes.names))

    return read_model(folder, build)


def _architectures() -> list[str]:
    return sorted(smp.MODEL_ARCHITECTURES_MAPPING)


def _check_options(spec: SegmenterSpec) -> None:
    """Refuses a misspelt option: the library passes what it does not know to the encoder, and its own ignore that."""
    parameters = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[spec.arch]).parameters.values()
    known = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD and p.name not in OWN_ARGUMENTS]
    unknown = [name for name in spec.options if name not in known]
    if unknown and not spec.encoder.startswith("tu-"):
        raise ModelError(
            f"train_segmenter.options: {spec.arch} with {spec.encoder} takes no {unknown[0]!r}. "
            f"Options: {', '.join(known)}."
        )


def _options(spec: SegmenterSpec, inputs: InputSpec, pretrained: bool | str) -> dict[str, Any]:
    options = dict(spec.options)
    if spec.arch == "dpt":
        options.setdefault("img_size", inputs.image_size)  # a vision transformer is built for one size
    if isinstance(pretrained, str):
        if not spec.encoder.startswith("tu-"):
            raise ValueError("a weights file can be given for tu- encoders only")
        if not Path(pretrained).is_file():
            raise ValueError(f"train_segmenter.pretrained: {pretrained!r} does not exist")
        options["pretrained_cfg_overlay"] = {"file": pretrained, "custom_load": False}
    return options


def _try_size(model: nn.Module, spec: SegmenterSpec, inputs: InputSpec) -> None:
    """One forward pass of an empty image: the architectures' own rules on sizes differ too much to be restated."""
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, inputs.channels, *inputs.image_size))
    except (AssertionError, RuntimeError) as error:
        stride = 2 * getattr(model.encoder, "output_stride", 16)
        valid = " x ".join(f"{_next(side, stride)}" for side in inputs.image_size)
        raise ModelError(
            f"train_segmenter: {spec.arch} with {spec.encoder} cannot take images of "
            f"{inputs.image_size[0]} x {inputs.image_size[1]} pixels ({' '.join(str(error).split())}). "
            f"Set train_segmenter.image_size, for instance to {valid}."
        ) from error
    finally:
        model.train(training)


def _next(side: int, stride: int) -> int:
    return -(-side // stride) * stride
