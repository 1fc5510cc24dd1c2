"""The segmenter: an architecture of segmentation-models-pytorch or ``vit`` by name, built, written and read."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from torch import nn

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.errors import ArtifactError, ModelError
from ctm.models.folder import check_kind, read_model, write_model
from ctm.models.vit_segmenter import ARCH as VIT
from ctm.models.vit_segmenter import build_vit_segmenter
from ctm.models.weights import DOWNLOAD_HINT, check_weights

__all__ = [
    "SegmenterSpec",
    "Supervision",
    "build_segmenter",
    "freeze_encoder",
    "load_segmenter",
    "read_supervision",
    "save_segmenter",
    "set_grad_checkpointing",
]

Supervision = Literal["pseudomasks", "truth"]
"""What a segmenter has learned from; one of the truth is an upper bound, for comparison only."""

OWN_ARGUMENTS = ("encoder_name", "encoder_weights", "in_channels", "classes")
"""Arguments of an architecture that are given by other parameters than ``options``."""


@dataclass(frozen=True)
class SegmenterSpec:
    """Architecture, encoder and further arguments, by the names of segmentation-models-pytorch.

    With the architecture ``vit`` the encoder is timm's by its own name; see ``build_vit_segmenter`` for the arguments.
    """

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
        pretrained: False; True for the encoder's published weights; or a safetensors file for one of timm's encoders.

    Raises:
        ModelError: an unknown name, an option the architecture does not take, missing weights, or an image size that
            the architecture cannot work at.
    """
    if spec.arch == VIT:
        model: nn.Module = build_vit_segmenter(
            spec.encoder, spec.options, inputs, num_classes=num_classes, pretrained=pretrained
        )
    else:
        model = _build_with_smp(spec, inputs, num_classes=num_classes, pretrained=pretrained)
    _try_size(model, spec, inputs)
    return model


def freeze_encoder(model: nn.Module) -> None:
    """Leaves the head of a segmenter as all that is trained: its encoder runs as in evaluation, without gradient.

    Nothing random happens in the encoder any more, the statistics of its batch normalisation stay, and as neither its
    weights nor the images need a gradient, none of its activations is kept for one.
    """
    cast("nn.Module", model.encoder).requires_grad_(False)
    model.register_forward_pre_hook(_hold_encoder)


def _hold_encoder(model: nn.Module, _images: Any) -> None:
    """Undoes what ``train()`` of the whole model has done to a frozen encoder."""
    cast("nn.Module", model.encoder).eval()


def set_grad_checkpointing(model: nn.Module) -> None:
    """Makes the encoder of a segmenter compute its activations again in the backward pass instead of keeping them.

    Loss and gradients stay the same. Batch normalisation sees every batch a second time, so that its running
    statistics move twice as fast: those of a network with such layers are not the ones without checkpointing.

    Raises:
        ModelError: the encoder cannot.
    """
    encoder: Any = model.encoder
    try:
        next(
            network for network in _inside(encoder) if hasattr(network, "set_grad_checkpointing")
        ).set_grad_checkpointing()
    except (StopIteration, AssertionError) as error:  # timm's models that cannot fail an assertion
        name = getattr(encoder, "name", type(encoder).__name__)
        raise ModelError(
            f"train_segmenter: the encoder {name} has no gradient checkpointing. Leave grad_checkpointing out, or "
            "choose one of timm's encoders that has it: arch vit with any, another arch with one of prefix tu-, such "
            "as tu-resnet18."
        ) from error


def _inside(encoder: nn.Module) -> Iterator[Any]:
    """An encoder and the networks that it wraps, the outer first: smp wraps timm's, and timm its own."""
    network: Any = encoder
    while isinstance(network, nn.Module):
        yield network
        network = getattr(network, "model", None)


def save_segmenter(
    folder: Path,
    model: nn.Module,
    spec: SegmenterSpec,
    *,
    classes: ClassTable,
    inputs: InputSpec,
    supervision: Supervision = "pseudomasks",
) -> None:
    """Writes a segmenter, with what it has learned from; see ``write_model``."""
    about = {"spec": asdict(spec), "supervision": supervision}
    write_model(folder, model, classes=classes, inputs=inputs, about=about)


def load_segmenter(folder: Path) -> tuple[nn.Module, ClassTable, InputSpec]:
    """Rebuilds what ``save_segmenter`` wrote; see ``read_model``.

    Raises:
        ArtifactError: a file is missing, damaged, of another format, or the two do not belong together.
    """

    def build(about: Mapping[str, Any], classes: ClassTable, inputs: InputSpec) -> nn.Module:
        return build_segmenter(SegmenterSpec(**about["spec"]), inputs, num_classes=len(classes.names))

    check_kind(folder, "segmenter")
    return read_model(folder, build)


def read_supervision(folder: Path) -> Supervision:
    """What the segmenter in ``folder`` has learned from; those of an older ctm knew pseudo-masks alone.

    Raises:
        ArtifactError: there is no description of a segmenter, or it names something else.
    """
    try:
        found = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("supervision", "pseudomasks")
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{folder} holds no readable model ({error}). Run the stage that writes it again."
        ) from error
    if found not in get_args(Supervision):
        raise ArtifactError(f"{folder} says that its segmenter has learned from {found!r}: run its stage again.")
    return cast("Supervision", found)


def _build_with_smp(spec: SegmenterSpec, inputs: InputSpec, *, num_classes: int, pretrained: bool | str) -> nn.Module:
    architectures = [*sorted(smp.MODEL_ARCHITECTURES_MAPPING), VIT]
    if spec.arch not in architectures:
        close = difflib.get_close_matches(spec.arch, architectures, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ModelError(f"train_segmenter.arch: no {spec.arch!r}.{hint} Valid: {', '.join(architectures)}.")
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
    return model


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
        stride = getattr(model, "patch_size", None) or 2 * getattr(model.encoder, "output_stride", 16)
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
