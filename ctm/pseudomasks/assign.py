"""Assignment: the class maps of one image become a mask of its size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_cdt
from torch import Tensor
from torch.nn import functional as F

from ctm.data.classes import IGNORE, ClassTable
from ctm.pseudomasks.background import otsu_threshold

__all__ = ["Fill", "assign", "assign_argmax", "assign_paper", "confident_argmax", "mask_values"]

Fill = Literal["nearest", "background", "ignore"]
"""What a pixel gets that no class takes."""

TOLERANCE = 1e-6
"""Relative tolerance of the comparison with the mean, so that a constant map is all foreground."""


def assign(
    maps: Tensor,
    rule: Literal["paper", "argmax"],
    *,
    probabilities: Tensor,
    candidates: Tensor,
    size: tuple[int, int],
    fill: Fill,
    background: int | None = None,
    background_threshold: float | None = 0.0,
    normalised: bool = False,
) -> NDArray[np.uint8]:
    """The mask by the named rule; the arguments are those of ``assign_paper`` and ``assign_argmax``."""
    if rule == "paper":
        return assign_paper(
            maps, probabilities=probabilities, candidates=candidates, size=size, fill=fill, background=background
        )
    return assign_argmax(
        maps,
        probabilities=probabilities,
        candidates=candidates,
        size=size,
        fill=fill,
        background=background,
        background_threshold=background_threshold,
        normalised=normalised,
    )


def assign_paper(
    maps: Tensor,
    probabilities: Tensor,
    candidates: Tensor,
    size: tuple[int, int],
    fill: Fill,
    background: int | None = None,
) -> NDArray[np.uint8]:
    """The paper's rule: a class takes the pixels where its map reaches the map's mean, the most probable class last.

    Hanna & Borth, ICCV 2025. Equal probabilities are painted in token order.

    Args:
        maps: one image's class maps, (C, h0, w0), non-negative.
        probabilities: of the classes, (C,), 0..1.
        candidates: classes that the mask may hold, (C,) bool.
        size: height and width of the mask in pixels.
        fill: what pixels below the mean of every candidate get.
        background: value painted for the background; needed by fill "background" alone. The number of tokens is one
            that no class has, and the one that ``mask_values`` expects.

    Returns:
        Token indices 0..C-1, ``background`` and 255 (ignore), (H, W). All 255 if there is no candidate.

    Raises:
        ValueError: fill "background" without a background value, or with one outside 0..254.
    """
    blank = _blank(fill, background)
    classes = _classes(candidates)
    if not len(classes):
        return np.full(size, IGNORE, dtype=np.uint8)
    scores = _upsample(_values(maps[classes]), size)  # (K, H, W)
    mean = scores.mean(dim=(1, 2), keepdim=True)
    foreground = (scores >= mean - TOLERANCE * mean.abs()).numpy()
    mask = np.full(size, blank, dtype=np.uint8)
    for k in _values(probabilities)[classes].argsort(stable=True).tolist():
        mask[foreground[k]] = classes[k]
    return _spread(mask, np.asarray(foreground.any(axis=0))) if fill == "nearest" else mask


def assign_argmax(
    maps: Tensor,
    probabilities: Tensor,
    candidates: Tensor,
    size: tuple[int, int],
    fill: Fill,
    background: int | None = None,
    background_threshold: float | None = 0.0,
    *,
    normalised: bool = False,
) -> NDArray[np.uint8]:
    """Each map is divided by its sum, and each pixel goes to the candidate with the largest value there.

    A map of zeros takes no pixel unless its class is the only candidate; if all maps
    are zero, the most probable candidate counts as the only one. A pixel where every map is zero is left to ``fill``,
    and with fill "background" one candidate has to reach the threshold as several have.

    Args:
        maps: one image's class maps, (C, h0, w0), non-negative.
        probabilities: of the classes, (C,), 0..1.
        candidates: classes that the mask may hold, (C,) bool.
        size: height and width of the mask in pixels.
        fill: what pixels get that no class takes.
        background: value painted for the background; needed by fill "background" alone. The number of tokens is one
            that no class has, and the one that ``mask_values`` expects.
        background_threshold: with fill "background" a pixel is background if every candidate's map, scaled to
            maximum 1, is below it; None: the image's own threshold by ``otsu_threshold``.
        normalised: the maps are compared as they are, since they were divided by their sums before.

    Returns:
        Token indices 0..C-1, ``background`` and 255 (ignore), (H, W). All 255 if there is no candidate.

    Raises:
        ValueError: fill "background" without a background value, or with one outside 0..254.
    """
    return confident_argmax(
        maps,
        probabilities,
        candidates,
        size,
        fill,
        background,
        background_threshold,
        normalised=normalised,
    )[0]


def confident_argmax(
    maps: Tensor,
    probabilities: Tensor,
    candidates: Tensor,
    size: tuple[int, int],
    fill: Fill,
    background: int | None = None,
    background_threshold: float | None = 0.0,
    *,
    normalised: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The mask of ``assign_argmax``, whose arguments these are, and how sure each of its pixels is.

    Returns:
        The mask, (H, W), and its confidence, (H, W): 255 times the winner's share of the sum of the candidates' maps
        there, so at least 255 / K where a class was painted, and 255 all over if there is one candidate. With fill
        "background" that share is multiplied by how far the largest map, scaled to maximum 1, is above the threshold,
        and a pixel of the background has how far it is below, 0 at the threshold and 255 at the end. 0 where nothing
        was decided, and all over if all maps are zero.
    """
    blank, classes = _blank(fill, background), _classes(candidates)
    if not len(classes):
        return np.full(size, IGNORE, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
    values, single = _values(maps[classes]), len(classes) == 1
    if not (known := bool(values.any())):
        first = _values(probabilities)[classes].argmax()[None]
        values, classes = values[first], classes[first]
    scores = _upsample(values if normalised else _scaled(values, values.sum(dim=(1, 2), keepdim=True)), size)
    largest, best = scores.max(dim=0)  # (H, W)
    share = torch.ones_like(largest) if single else _scaled(largest, scores.sum(dim=0))
    painted = (largest > 0) if len(classes) > 1 else torch.ones(size, dtype=torch.bool)
    if fill == "background":
        peak = _scaled(scores, scores.amax(dim=(1, 2), keepdim=True)).amax(dim=0)
        threshold = otsu_threshold(peak.numpy()) if background_threshold is None else background_threshold
        painted &= peak >= threshold
        above, below = (peak - threshold) / max(1 - threshold, TOLERANCE), 1 - peak / max(threshold, TOLERANCE)
        share = torch.where(painted, share * above, below).clamp(0, 1)
    mask = torch.where(painted, classes[best], blank).to(torch.uint8).numpy()
    confidence = (255 * share * known).round().to(torch.uint8).numpy()
    return (_spread(mask, painted.numpy()) if fill == "nearest" else mask), confidence


def mask_values(mask: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.uint8]:
    """Translates token indices, and the index after the last as background, to the mask values of ``classes``.

    Args:
        mask: token indices, ``len(classes.tokens)`` for the background, 255 stays; any shape.
        classes: the data set's classes.
    """
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[: len(classes.tokens)] = classes.tokens
    if classes.background is not None:
        table[len(classes.tokens)] = classes.background
    return np.asarray(table[mask])


def _values(tensor: Tensor) -> Tensor:
    """The numbers alone, in double precision on the CPU."""
    return tensor.detach().cpu().double()


def _classes(candidates: Tensor) -> Tensor:
    """The candidates' token indices in ascending order, (K,)."""
    return candidates.detach().cpu().nonzero().flatten()


def _upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with half-pixel centres, (K, h0, w0) -> (K, H, W)."""
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def _scaled(maps: Tensor, divisor: Tensor) -> Tensor:
    """Each map divided by its own number; a map of zeros stays one."""
    return maps / torch.where(divisor > 0, divisor, 1)


def _spread(mask: NDArray[np.uint8], painted: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Gives each unpainted pixel the value of the nearest painted one, in taxicab distance."""
    if painted.all() or not painted.any():
        return mask
    _, (rows, columns) = distance_transform_cdt(~painted, metric="taxicab", return_indices=True)
    return np.asarray(mask[rows, columns])


def _blank(fill: Fill, background: int | None) -> int:
    """The value of unpainted pixels before any spreading."""
    if fill != "background":
        return IGNORE
    if background is None or not 0 <= background < IGNORE:
        raise ValueError(f"fill 'background' needs a background value from 0 to {IGNORE - 1}, not {background}")
    return background
