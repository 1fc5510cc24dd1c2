"""Rows of the table: extraction of pseudo-masks from images to files, as ctm does it and written plainly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.image_shards import input_spec, write_image_shards
from bench.models import LAST_BLOCKS, attention_row, make_model
from bench.reference import assign_paper_by_pixels, attention_maps_of_kept_matrices, relevance_one_by_one
from bench.row import Row
from bench.sizes import Setting
from ctm.data.shards import ShardFolder
from ctm.data.transforms import image_to_input
from ctm.pseudomasks import extraction as extract
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.mask_shards import MEMBER
from ctm.runtime.context import WHOLE

__all__ = ["Extraction", "extraction_rows", "same_masks"]

SAME = 0.98
"""Fraction of pixels that must be equal: where two painted pixels are equally near, either may fill a third, and a
pixel that is at the mean of its map up to rounding may be painted or not."""

STRATEGIES = {"attention": 2, "relevance": 1}
"""How many images each is measured on: the plain way takes many seconds an image."""


def extraction_rows(setting: Setting) -> Iterator[Row]:
    """Maps alone, then all from stored images to stored masks; both sides in fp32 there, as ctm's stage is."""
    yield attention_row(setting)
    with TemporaryDirectory() as place:
        for strategy, images in STRATEGIES.items():
            extraction = Extraction(setting, Path(place) / strategy, strategy, images=images)
            yield Row(
                f"extraction, {strategy}, image to mask file: plain ÷ ours",
                extraction.plainly,
                extraction.ours,
                same_masks,
                memory=True,
                samples=images,
                repeats=2,
                device=setting.device,
            )


class Extraction:
    """Pseudo-masks by the paper's rule with one strategy, of a few images that lie in a shard."""

    def __init__(self, setting: Setting, place: Path, strategy: str, *, images: int) -> None:
        """Writes the images."""
        self._sizes, self._device, self._place, self._runs = setting.sizes, setting.device, place, count()
        self._inputs = input_spec(setting.sizes)
        self._data = write_image_shards(place / "images", setting.sizes, images)
        self._config = ExtractConfig.model_validate(
            {
                "strategy": strategy,
                "blocks": LAST_BLOCKS if strategy == "relevance" else None,
                "assignment": "paper",
                "fill": "nearest",
                "splits": ["train"],
                "batch_size": setting.batch,
            }
        )
        self._model = make_model(setting.sizes).to(setting.device)

    def ours(self) -> list[NDArray[np.uint8]]:
        """Masks as ctm's stage writes them, read back from its shards."""
        folder = self._place / f"ours{next(self._runs)}"
        extraction = extract.Extraction(self._data, self._model, self._inputs, device=self._device, workers=0)
        extraction.write(folder, extraction.plan(self._config), WHOLE)
        masks = ShardFolder.open(folder).split("train")
        return [masks.mask(number, MEMBER) for number in range(len(masks))]

    def plainly(self) -> list[NDArray[np.uint8]]:
        """All images in memory, every attention matrix kept, masks painted and filled pixel by pixel, a file each."""
        folder, split = self._place / f"plain{next(self._runs)}", self._data.split("train")
        folder.mkdir()
        self._model.requires_grad_(True)  # ours freezes it
        images = [image_to_input(split.image(number), self._inputs) for number in range(len(split))]
        masks = []
        for start in range(0, len(images), self._config.batch_size):
            chosen = slice(start, start + self._config.batch_size)
            candidates = torch.from_numpy(split.labels[chosen])
            maps, logits = self._maps(torch.stack(images[chosen]).to(self._device), candidates)
            for row, probabilities in enumerate(logits.sigmoid().cpu()):
                own = candidates[row].nonzero().flatten()
                places = assign_paper_by_pixels(maps[row].cpu()[own], probabilities[own], self._sizes.image)
                mask = own.numpy().astype(np.uint8)[places]
                Image.fromarray(mask).save(folder / f"{split.keys[start + row]}.png")
                masks.append(mask)
        return masks

    def _maps(self, images: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h0, w0) and logits (B, C), the plain way."""
        if self._config.strategy == "attention":
            return attention_maps_of_kept_matrices(self._model, images)
        return relevance_one_by_one(self._model, images, candidates, LAST_BLOCKS)


def same_masks(reference: list[NDArray[np.uint8]], ours: list[NDArray[np.uint8]]) -> bool:
    """Whether as many masks agree in as many pixels as rounding and ties allow."""
    return all(float((one == other).mean()) >= SAME for one, other in zip(reference, ours, strict=True))
