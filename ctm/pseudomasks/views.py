"""Views of a batch, other sizes and the mirror image, and the mean of their maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["View", "mean_maps", "views_of"]


class View(NamedTuple):
    """A size in pixels, height and width, and whether the image is mirrored left to right."""

    size: tuple[int, int]
    mirrored: bool

    def apply(self, images: Tensor) -> Tensor:
        """The images, (B, channels, H, W), as this view has them."""
        if tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, size=self.size, mode="bilinear", antialias=True)
        return images.flip(-1) if self.mirrored else images

    def undo(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h, w) of such images, turned back."""
        return maps.flip(-1) if self.mirrored else maps


def views_of(size: tuple[int, int], *, scales: Sequence[float], flip: bool, patch: int) -> list[View]:
    """The views of images of ``size``, each once; the one of their own size, if there is one, comes first.

    Args:
        size: height and width of the images in pixels.
        scales: sizes as fractions of it; each side is rounded to a multiple of the patch, at least one.
        flip: whether each size comes mirrored, too.
        patch: side of a patch in pixels.
    """
    height, width = size
    scaled = [(_on_grid(height * scale, patch), _on_grid(width * scale, patch)) for scale in scales]
    ordered = sorted(dict.fromkeys(scaled), key=lambda other: other != size)
    return [View(other, mirrored) for other in ordered for mirrored in ([False, True] if flip else [False])]


def mean_maps(maps: Sequence[Tensor]) -> Tensor:
    """Mean of the maps of several views, (B, C, h, w) each, at the largest grid; each view counts the same.

    Each map is resized bilinearly and then divided by its sum: the other way round, a map of a coarse grid would count
    more, because resizing does not keep the sum. A map that is zero everywhere stays zero, and adds nothing.
    """
    grid = max((tuple(view.shape[-2:]) for view in maps), key=lambda sides: sides[0] * sides[1])
    total = maps[0].new_zeros(*maps[0].shape[:2], *grid)
    for view in maps:
        resized = view if view.shape[-2:] == grid else F.interpolate(view, size=grid, mode="bilinear")
        total += resized / resized.sum(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(resized.dtype).tiny)
    return total / len(maps)


def _on_grid(side: float, patch: int) -> int:
    return max(round(side / patch), 1) * patch
