"""``ctm predict``: masks of new images by a segmenter, or what a classifier looks at in them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctm.commands.options import DeviceOption
from ctm.errors import ParamsError
from ctm.runtime.preemption import Preempted

if TYPE_CHECKING:
    import torch

__all__ = ["predict"]


def predict(
    images: Annotated[
        list[Path], typer.Argument(help="Photographs, .npy arrays and GeoTIFFs, or folders with such files.")
    ],
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            metavar="DIR",
            help="Output of train-segmenter; with --explain of train-classifier or prune-heads.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="New folder for the files; one with masks of these images by the same model is continued.",
        ),
    ],
    explain: Annotated[
        bool, typer.Option("--explain", help="The classes of each image, and a picture of what speaks for each.")
    ] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile",
            min=16,
            metavar="PIXELS",
            help="Height of a tile in pixels of the image. Left out: GeoTIFFs in tiles as large as the training images "
            "usually were, photographs and arrays whole.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, metavar="N", help="Images or tiles in one forward pass.")
    ] = 8,
) -> None:
    """Masks of new images: palette PNGs, and GeoTIFFs with CRS and transform for GeoTIFFs of any size."""
    from ctm.training.device import pick_device

    if explain and tile is not None:
        raise ParamsError("--tile is for masks: with --explain every image is seen whole. Leave one of them out.")
    work = _explain if explain else partial(_segment, tile=tile)
    try:
        written = work(images, model, out, device=pick_device(device), batch_size=batch_size)
    except Preempted as ended:
        raise Preempted("" if explain else "the same command goes on; the masks that are there are kept") from ended
    typer.echo(f"wrote {written} to {out}")


def _segment(
    images: list[Path], model: Path, out: Path, *, tile: int | None, device: torch.device, batch_size: int
) -> str:
    from ctm.models.folder import check_kind
    from ctm.predict.images import find_images
    from ctm.predict.masks import predict_masks
    from ctm.predict.network import load_network

    check_kind(model, "segmenter", hint="or add --explain, which takes a classifier")
    network = load_network(model, device=device, batch_size=batch_size)
    count = predict_masks(find_images(images, network.inputs), network, out, tile=tile)
    return f"{count} {'mask' if count == 1 else 'masks'}"


def _explain(images: list[Path], model: Path, out: Path, *, device: torch.device, batch_size: int) -> str:
    from ctm.models.folder import check_kind
    from ctm.models.io import load_classifier
    from ctm.predict.explain import PREDICTIONS, explain_images
    from ctm.predict.images import find_images

    check_kind(model, "classifier", hint="or leave --explain out, which a segmenter's masks do without")
    network, classes, inputs = load_classifier(model)
    found = find_images(images, inputs, explained=True)
    count = explain_images(found, network, out, classes=classes, inputs=inputs, device=device, batch_size=batch_size)
    return f"{PREDICTIONS} and {count} {'picture' if count == 1 else 'pictures'}"
