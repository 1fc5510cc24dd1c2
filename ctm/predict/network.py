"""A segmenter that is ready to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.transforms import image_to_input
from ctm.models.segmenter import load_segmenter
from ctm.runtime.digest import digest_artifact

__all__ = ["Network", "load_network"]


@dataclass(frozen=True)
class Network:
    """A segmenter with all that predicting needs.

    Attributes:
        model: maps images (B, Ch, h, w) to logits (B, K, h, w); in evaluation mode, on the device.
        classes: what the mask values mean.
        inputs: what the model takes.
        device: where it runs.
        batch_size: images or tiles in one forward pass.
        digest: of the folder that it was read from, by which its masks are known.
    """

    model: nn.Module
    classes: ClassTable
    inputs: InputSpec
    device: torch.device
    batch_size: int
    digest: str = ""

    def tile_size(self, height: int | None = None) -> tuple[int, int]:
        """Height and width in pixels of a tile that shows as much as an image of the training did.

        Args:
            height: another height; the width follows in proportion.
        """
        usual = self.inputs.stored_size or self.inputs.image_size
        return usual if height is None else (height, max(1, round(height * usual[1] / usual[0])))

    @torch.inference_mode()
    def logits(self, images: Sequence[NDArray[Any]]) -> Tensor:
        """Logits (B, K, h, w) at the model's size of stored images (Ch, H, W) of any sizes."""
        batch = torch.stack([image_to_input(image, self.inputs) for image in images])
        logits: Tensor = self.model(batch.to(self.device)).float()
        return logits


def load_network(folder: Path, *, device: torch.device, batch_size: int) -> Network:
    """Reads a segmenter that ``train-segmenter`` wrote.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    model, classes, inputs = load_segmenter(folder)
    return Network(model.to(device).eval(), classes, inputs, device, batch_size, digest_artifact(folder))
