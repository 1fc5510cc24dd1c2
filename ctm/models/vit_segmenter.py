"""A segmenter made of one of timm's Vision Transformers and a light head: the backbone of both stages may be one."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ctm.data.inputs import InputSpec
from ctm.errors import ModelError
from ctm.models.weights import create_vit

__all__ = ["ARCH", "VitSegmenter", "build_vit_segmenter"]

ARCH = "vit"
"""What ``train_segmenter.arch`` calls it, beside the architectures of segmentation-models-pytorch."""

HEAD_OPTIONS = {"decoder_channels": 256, "blocks": 1}
"""Options of the head and what they are unless given."""

ENCODER_OPTIONS = ("patch_size", "depth", "embed_dim", "num_heads", "drop_path_rate")
"""Options that go to timm: another encoder than the one of that name, for instance a smaller one from scratch."""


class VitSegmenter(nn.Module):
    """Patch tokens of a transformer as a map, two convolutions, a classifier of its cells, resized to the image.

    Attributes:
        encoder: timm's model.
        patch_size: side of a patch in pixels.
        head: from the patches' features to logits, without batch statistics.
    """

    def __init__(self, encoder: nn.Module, *, num_classes: int, decoder_channels: int, blocks: int) -> None:
        """Puts a head on ``encoder``.

        Args:
            encoder: transformer whose blocks all work on the same patches.
            num_classes: K, the number of mask values.
            decoder_channels: width of the head.
            blocks: the head sees the patch tokens of so many of the last blocks side by side.
        """
        super().__init__()
        self.encoder = encoder
        self.patch_size = cast("int", cast("Any", encoder.feature_info)[-1]["reduction"])
        self.blocks = blocks
        width = blocks * cast("int", encoder.embed_dim)
        self.head = nn.Sequential(
            nn.Conv2d(width, decoder_channels, kernel_size=1),
            nn.GELU(),
            nn.Conv2d(decoder_channels, decoder_channels, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv2d(decoder_channels, num_classes, kernel_size=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) of images (B, Ch, H, W)."""
        logits = self.head(self.features(images))
        return interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)

    def features(self, images: Tensor) -> Tensor:
        """Patch tokens of the last blocks after the encoder's final norm, (B, blocks * D, h0, w0)."""
        encoder: Any = self.encoder
        blocks = encoder.forward_intermediates(images, indices=self.blocks, output_fmt="NLC", intermediates_only=True)
        tokens = torch.cat([_final_norm(encoder)(block) for block in blocks], dim=-1)  # (B, P, blocks * D)
        rows, columns = (side // self.patch_size for side in images.shape[-2:])
        return tokens.mT.reshape(tokens.shape[0], -1, rows, columns)


def build_vit_segmenter(
    encoder: str, options: Mapping[str, Any], inputs: InputSpec, *, num_classes: int, pretrained: bool | str
) -> VitSegmenter:
    """Builds the encoder with timm for the size of ``inputs``, and the head.

    Args:
        encoder: name of timm's model, such as vit_small_patch14_dinov2.
        options: ``decoder_channels`` (256) and ``blocks`` (1) of the head, and sizes of another encoder than the one
            of that name.
        inputs: number of channels and image size.
        num_classes: K, the number of mask values.
        pretrained: False, True for timm's weights of that name, or a safetensors file.

    Raises:
        ModelError: an unknown or unsuitable encoder, an unknown or impossible option, or weights that are missing or
            do not fit.
    """
    _check_names(encoder, options)
    _check_columnar(encoder)
    head = HEAD_OPTIONS | {name: value for name, value in options.items() if name in HEAD_OPTIONS}
    vit = create_vit(
        encoder,
        pretrained,
        {name: value for name, value in options.items() if name not in HEAD_OPTIONS},
        what=f"train_segmenter: for arch {ARCH} the encoder",
        parameter="train_segmenter.pretrained",
        img_size=inputs.image_size,
        in_chans=inputs.channels,
    )
    depth = len(cast("Any", vit.feature_info))
    for name, most in (("decoder_channels", None), ("blocks", depth)):
        if not isinstance(head[name], int) or head[name] < 1 or (most is not None and head[name] > most):
            raise ModelError(
                f"train_segmenter.options: {name} is {head[name]!r}; it is a whole number from 1"
                + (f" to {most}, the encoder's blocks." if most is not None else ".")
            )
    return VitSegmenter(vit, num_classes=num_classes, **head)


def _check_names(encoder: str, options: Mapping[str, Any]) -> None:
    if not timm.is_model(encoder):
        close = get_close_matches(encoder.split(".")[0], timm.list_models(module="vision_transformer"), n=5)
        hint = f"; close names: {', '.join(close)}" if close else ""
        more = " (the prefix tu- is for the architectures of smp)" if encoder.startswith("tu-") else ""
        raise ModelError(f"train_segmenter.encoder: timm has no model {encoder!r}{more}{hint}")
    known = (*HEAD_OPTIONS, *ENCODER_OPTIONS)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ModelError(
            f"train_segmenter.options: {ARCH} with {encoder} takes no {unknown[0]!r}. Options: {', '.join(known)}."
        )


def _check_columnar(name: str) -> None:
    """Refuses networks whose blocks differ in resolution or width, and those that name no final norm."""
    with torch.device("meta"):
        encoder = timm.create_model(name)
    stages = cast("list[dict[str, Any]]", getattr(encoder, "feature_info", []))
    plain = len({(stage["reduction"], stage["num_chs"]) for stage in stages}) == 1
    if not plain or not hasattr(encoder, "forward_intermediates") or not hasattr(encoder, "norm"):
        raise ModelError(
            f"train_segmenter.encoder: {name} is no plain Vision Transformer, which {ARCH} needs: choose one, such as "
            f"vit_small_patch14_dinov2, or another arch with the encoder tu-{name}."
        )


def _final_norm(encoder: nn.Module) -> nn.Module:
    """Backbones that pool their patches keep the final norm behind the pooling."""
    return cast("nn.Module", encoder.fc_norm if isinstance(encoder.norm, nn.Identity) else encoder.norm)
