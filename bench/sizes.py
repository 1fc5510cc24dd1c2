"""How big the inputs and the models of the table are: those of the paper's Table 7, and smaller ones for every day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from bench.measure import CPU

__all__ = ["SIZES", "Precision", "Setting", "Sizes"]

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Sizes:
    """How big the inputs are.

    Attributes:
        channels: of an image.
        image: height and width in pixels.
        patch: side of a patch in pixels.
        classes: number of class tokens C.
        depth: number of blocks.
        width: of a token, D.
        heads: attention heads of a block.
        batch: images in a forward pass on a CPU.
        gpu_batch: images in a forward pass on a GPU: the preset's batch.
    """

    channels: int
    image: tuple[int, int]
    patch: int
    classes: int
    depth: int
    width: int
    heads: int
    batch: int
    gpu_batch: int = 16

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def tokens(self) -> int:
        """Length of the sequence, N: class tokens, patches and the register token."""
        return self.classes + self.grid[0] * self.grid[1] + 1


SIZES = {
    "photographs": Sizes(3, (224, 224), 16, classes=20, depth=12, width=384, heads=12, batch=4),
    "endotect-s": Sizes(3, (512, 640), 16, classes=23, depth=12, width=384, heads=8, batch=1, gpu_batch=8),
    "dfc2020": Sizes(15, (224, 224), 14, classes=8, depth=12, width=768, heads=16, batch=2),
    "endotect": Sizes(3, (512, 640), 16, classes=23, depth=12, width=768, heads=16, batch=1, gpu_batch=8),
    "ade20k": Sizes(3, (208, 320), 16, classes=151, depth=12, width=768, heads=16, batch=2),
}
"""By name. The last three are the paper's: ViT-B with 16 heads. Of the others the first is ViT-S with twice its heads,
the second ViT-S with heads as wide as the paper's."""


@dataclass(frozen=True)
class Setting:
    """At which sizes, and where, ours and the reference are measured.

    Attributes:
        sizes: of inputs and model.
        device: where both run.
        precision: of ours where ctm has a choice, which is training; and of forward passes. The reference is fp32.
        compiled: whether rows with ``torch.compile`` are shown beside those without.
        name: of the sizes.
    """

    sizes: Sizes
    device: torch.device = CPU
    precision: Precision = "fp32"
    compiled: bool = False
    name: str = ""

    @property
    def batch(self) -> int:
        """Images in a forward pass."""
        return self.sizes.batch if self.device.type == "cpu" else self.sizes.gpu_batch

    def autocast(self) -> torch.autocast:
        """The context in which ours runs a forward pass."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def __str__(self) -> str:
        sizes, (height, width) = self.sizes, self.sizes.image
        return (
            f"{self.name}: {sizes.channels} x {height} x {width}, {sizes.classes} classes, {sizes.tokens:,} tokens of "
            f"width {sizes.width}, {sizes.depth} blocks of {sizes.heads} heads; batch {self.batch}; "
            f"{self.device.type}, reference fp32, ours {self.precision}"
        )
