"""What a classifier sees in new images: the probability of every class, and what speaks for the predicted ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ctm.data.classes import ClassTable
from ctm.data.display import display_rgb
from ctm.data.inputs import InputSpec
from ctm.data.sample import safe_key
from ctm.data.transforms import image_to_input
from ctm.evaluation.figures import heat_overlay
from ctm.models.class_token_vit import ClassTokenViT
from ctm.predict.images import ImageFile, report_failures
from ctm.predict.sources import Whole, read_batches
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.maps import class_maps
from ctm.runtime.outputs import check_new_folder, staged_outputs, write_text

__all__ = ["PREDICTIONS", "explain_images"]

PREDICTIONS = "predictions.csv"
LONGEST_SIDE = 2048
"""Pixels of a picture's longer side at most; smaller images keep their size."""


def explain_images(
    images: Sequence[ImageFile],
    model: ClassTokenViT,
    folder: Path,
    *,
    classes: ClassTable,
    inputs: InputSpec,
    device: torch.device,
    batch_size: int,
) -> int:
    """Writes the probability of every class in every image, and a picture of the relevance of each predicted class.

    ``predictions.csv`` has a row for each image and class. ``<name>/<class>.png`` shows, over the grey image, the class
    map as the pseudo-masks are made from it unless they are configured: ``ExtractConfig`` with its defaults.

    Args:
        images: what is looked at, each of them whole; see ``find_images``.
        model: gated or pruned classifier.
        folder: where the files go; it must not exist or be empty.
        classes: what the classifier tells apart.
        inputs: what it takes.
        device: where it runs.
        batch_size: images in one forward pass.

    Returns:
        The number of pictures.

    Raises:
        ArtifactError: ``folder`` holds files.
        DataError: images could not be read to their end, which are named; the files of all others are written.
    """
    check_new_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = ExtractConfig()
    model = model.to(device).eval().requires_grad_(False)  # relevance needs no gradient of the weights
    files = _file_names(classes)
    rows: list[tuple[str, str, str]] = []
    failures: list[str] = []
    pictures = 0
    for batch in read_batches(images, inputs, batch_size=batch_size, failures=failures, description="explanations"):
        prepared = torch.stack([image_to_input(image.pixels, inputs) for image in batch.values()])
        found = class_maps(model, prepared.to(device), None, config, threshold=config.threshold)
        probabilities = found.logits.sigmoid().tolist()
        maps, predicted = found.maps.cpu().numpy(), found.candidates.tolist()
        for row, (name, image) in enumerate(batch.items()):
            rows += [(name, *pair) for pair in _shares(classes, probabilities[row])]
            chosen = {file: maps[row, token] for token, file in enumerate(files) if predicted[row][token]}
            _write_pictures(folder / name, image, chosen)
            pictures += len(chosen)
    write_text(folder / PREDICTIONS, _table(rows))
    report_failures(failures, images, folder)
    return pictures


def _file_names(classes: ClassTable) -> list[str]:
    """The name of each class token's pictures; a class whose name would be another's has its mask value behind it."""
    names = [safe_key(name) for name in classes.token_names]
    pairs = zip(names, classes.tokens, strict=True)
    return [f"{name}.png" if names.count(name) == 1 else f"{name}_{value}.png" for name, value in pairs]


def _shares(classes: ClassTable, probabilities: Sequence[float]) -> list[tuple[str, str]]:
    """Name and probability of each class, as text."""
    return [(name, f"{share:.4f}") for name, share in zip(classes.token_names, probabilities, strict=True)]


def _write_pictures(folder: Path, image: Whole, maps: dict[str, NDArray[np.float32]]) -> None:
    """Writes the pictures of one image, all or none; an image without a predicted class has no folder."""
    if not maps:
        return
    shown = display_rgb(image.pixels)
    side = min(max(shown.shape[:2]), LONGEST_SIDE)
    with staged_outputs({"pictures": folder}) as staged:
        staged["pictures"].mkdir()
        for file, class_map in maps.items():
            picture = Image.fromarray(heat_overlay(shown, class_map, side=side, missing=image.missing))
            picture.save(staged["pictures"] / file)


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "class", "probability"))
    writer.writerows(rows)
    return text.getvalue()
