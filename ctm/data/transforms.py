"""From a stored image and mask to the tensors a model is trained on: one random geometry for both, then one resize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ctm.data.config import AugmentConfig
from ctm.data.inputs import InputSpec

__all__ = ["Geometry", "draw_geometry", "image_to_input", "mask_to_target"]


@dataclass(frozen=True)
class Geometry:
    """A crop of an image and lossless flips, to be applied alike to image and mask.

    Attributes:
        top: first row of the crop in the stored image.
        left: its first column.
        height: its rows.
        width: its columns.
        mirror: flip left-right.
        upend: flip up-down.
        transpose: swap rows and columns; only where the stored image and the input are square.
    """

    top: int
    left: int
    height: int
    width: int
    mirror: bool = False
    upend: bool = False
    transpose: bool = False

    def crop(self, tensor: Tensor) -> Tensor:
        """Cuts the crop out of ``tensor``, (..., H, W)."""
        return tensor[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def flip(self, tensor: Tensor) -> Tensor:
        """Flips the last two dimensions of ``tensor``, (..., H, W)."""
        if self.transpose:
            tensor = tensor.mT
        flipped = [dim for dim, wanted in ((-1, self.mirror), (-2, self.upend)) if wanted]
        return tensor.flip(flipped).contiguous()


def draw_geometry(
    config: AugmentConfig, size: tuple[int, int], image_size: tuple[int, int], *, rng: np.random.Generator
) -> Geometry:
    """Draws a random geometry.

    Every call takes the same number of values from ``rng``, whatever the configuration.

    Args:
        config: which changes are wanted.
        size: height and width of the stored image.
        image_size: height and width of the model's input.
        rng: where the randomness comes from.
    """
    side, down, right, *coins = rng.random(6)
    share = config.min_crop + (1 - config.min_crop) * side
    height, width = (max(1, round(share * length)) for length in size)
    square = size[0] == size[1] and image_size[0] == image_size[1]
    mirror, upend, transpose = (coin < 0.5 for coin in coins)
    dihedral = config.flip == "dihedral"
    return Geometry(
        top=int(down * (size[0] - height + 1)),
        left=int(right * (size[1] - width + 1)),
        height=height,
        width=width,
        mirror=mirror and config.flip != "none",
        upend=upend and dihedral,
        transpose=transpose and dihedral and square,
    )


def image_to_input(image: NDArray[Any], inputs: InputSpec, geometry: Geometry | None = None) -> Tensor:
    """The model's input, float32 (Ch, H, W): scaled, cropped, resized (bilinear, antialiased), standardised, flipped.

    Args:
        image: stored pixel values, (Ch, H0, W0).
        inputs: what the model takes.
        geometry: random changes; None for the whole image as it is.
    """
    geometry = geometry or Geometry(0, 0, *image.shape[1:])
    tensor = geometry.crop(torch.from_numpy(image)).to(torch.float32, copy=True).mul_(inputs.scale)
    tensor = F.interpolate(tensor[None], inputs.image_size, mode="bilinear", antialias=True)[0]
    if inputs.mean is not None and inputs.std is not None:
        tensor = (tensor - torch.tensor(inputs.mean)[:, None, None]) / torch.tensor(inputs.std)[:, None, None]
    return geometry.flip(tensor)


def mask_to_target(mask: NDArray[np.uint8], image_size: tuple[int, int], geometry: Geometry | None = None) -> Tensor:
    """The mask that belongs to ``image_to_input`` with the same geometry, int64 (H, W); nearest pixel, values kept.

    Args:
        mask: stored values, (H0, W0).
        image_size: height and width of the model's input.
        geometry: the geometry that the image got.
    """
    geometry = geometry or Geometry(0, 0, *mask.shape)
    tensor = geometry.crop(torch.from_numpy(mask))
    # Samples at pixel centres as the image's bilinear resize does; plain "nearest" is half a pixel off.
    tensor = F.interpolate(tensor[None, None], image_size, mode="nearest-exact")[0, 0]
    return geometry.flip(tensor.long())
