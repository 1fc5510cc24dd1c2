"""Pseudo-masks of a whole split: what the classifier says of each image becomes a mask of its size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.shards import Split
from ctm.errors import ParamsError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.assign import assign_argmax, assign_paper, mask_values
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.readings import Reading, read_split

__all__ = ["PseudoMask", "check_fill", "decide", "extract_pseudomasks"]


@dataclass(frozen=True)
class PseudoMask:
    """The pseudo-mask of one sample, at the size of its stored image.

    Attributes:
        index: of the sample in its split.
        mask: (H, W) mask values, 255 where undecided.
        maps: (C, h0, w0) class maps before PAMR; zero for classes that were no candidates.
        candidates: (C,) the classes that could be painted.
        logits: (C,) of the classifier.
        confidence: (H, W) the winner's share of the candidates' maps, 0..255; None unless the configuration asks for
            it: see ``assign_argmax``.
    """

    index: int
    mask: NDArray[np.uint8]
    maps: NDArray[np.float32]
    candidates: NDArray[np.bool_]
    logits: NDArray[np.float32]
    confidence: NDArray[np.uint8] | None


def extract_pseudomasks(
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    *,
    classes: ClassTable,
    config: ExtractConfig,
    **settings: Any,
) -> Iterator[PseudoMask]:
    """Yields the pseudo-mask of every sample of ``split``, or of some; one batch is in memory at a time.

    Args:
        model: gated or pruned classifier.
        split: the samples.
        inputs: what the model takes.
        classes: what the mask values mean.
        config: the extraction, of a strategy other than auto.
        settings: the other arguments of ``read_split``.

    Raises:
        ParamsError: the fill rule does not fit the classes; or see ``read_split``.
    """
    check_fill(config, classes)
    for reading in read_split(model, split, inputs, config=config, **settings):
        yield decide(reading, classes=classes, config=config)


def decide(reading: Reading, *, classes: ClassTable, config: ExtractConfig) -> PseudoMask:
    """The pseudo-mask of an image that has been read. Nothing but its arguments matters, so threads may share the work.

    Only the candidates' maps are touched: what an image costs does not grow with the number of classes.
    """
    chosen = reading.candidates.nonzero().flatten()  # (K,)
    maps = reading.maps[chosen] if reading.refined is None else reading.refined
    probabilities, confidence = reading.logits.sigmoid()[chosen], None
    if config.assignment == "paper":
        mask = assign_paper(maps, probabilities, reading.size, config.fill)
    else:
        mask, confidence = assign_argmax(
            maps,
            probabilities,
            reading.size,
            config.fill,
            config.background_threshold,
            normalised=reading.refined is not None,
        )
    return PseudoMask(
        index=reading.index,
        mask=mask_values(mask, classes, chosen.tolist()),
        maps=reading.maps.numpy(),
        candidates=reading.candidates.numpy(),
        logits=reading.logits.numpy(),
        confidence=confidence if config.confidence else None,
    )


def check_fill(config: ExtractConfig, classes: ClassTable) -> None:
    """Checks that the fill rule fits the classes.

    Raises:
        ParamsError: ``background`` without a background class, or ``nearest`` where the background has no token and so
            could never be painted.
    """
    if config.fill == "background" and classes.background is None:
        raise ParamsError(
            "extract_pseudomasks.fill: background needs a class without token: name it in dataset.background, or use "
            "nearest or ignore."
        )
    if config.fill == "nearest" and classes.background is not None:
        raise ParamsError(
            f"extract_pseudomasks.fill: nearest would never paint {classes.names[classes.background]!r}, which has no "
            "class token: use background or ignore."
        )
