"""Assignment: the candidates' maps of one image become a mask of its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_cdt
from torch import Tensor
from torch.nn import functional as F

from ctm.data.classes import IGNORE, ClassTable
from ctm.pseudomasks.background import otsu_threshold

__all__ = ["Fill", "assign_argmax", "assign_paper", "mask_values"]

Fill = Literal["nearest", "background", "ignore"]
"""What a pixel gets that no class takes."""

TOLERANCE = 1e-6
"""Relative tolerance of the comparison with the mean, so that a constant map is all foreground."""


def assign_paper(maps: Tensor, probabilities: Tensor, size: tuple[int, int], fill: Fill) -> NDArray[np.uint8]:
    """The paper's rule: a class takes the pixels where its map reaches the map's mean, the most probable class last.

    Hanna & Borth, ICCV 2025. Equal probabilities are painted in their order.

    Args:
        maps: one image's maps of its candidates alone, (K, h0, w0), non-negative.
        probabilities: of the candidates, (K,), 0..1.
        size: height and width of the mask in pixels.
        fill: what pixels below the mean of every candidate get.

    Returns:
        (H, W): places of the candidates 0..K-1, K for the background, 255 for ignore. All 255 if there is no candidate.
    """
    if not len(maps):
        return np.full(size, IGNORE, dtype=np.uint8)
    scores = _upsample(_values(maps), size)  # (K, H, W)
    mean = scores.mean(dim=(1, 2), keepdim=True)
    foreground = (scores >= mean - TOLERANCE * mean.abs()).numpy()
    mask = np.full(size, _blank(fill, len(maps)), dtype=np.uint8)
    for k in _values(probabilities).argsort(stable=True).tolist():
        mask[foreground[k]] = k
    return _spread(mask, np.asarray(foreground.any(axis=0))) if fill == "nearest" else mask


def assign_argmax(
    maps: Tensor,
    probabilities: Tensor,
    size: tuple[int, int],
    fill: Fill,
    background_threshold: float | None = 0.0,
    *,
    normalised: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Each map is divided by its sum, and each pixel goes to the candidate with the largest value there.

    A map of zeros takes no pixel unless its class is the only candidate; if all maps
    are zero, the most probable candidate counts as the only one. A pixel where every map is zero is left to ``fill``,
    and with fill "background" one candidate has to reach the threshold as several have.

    Args:
        maps: one image's maps of its candidates alone, (K, h0, w0), non-negative.
        probabilities: of the candidates, (K,), 0..1.
        size: height and width of the mask in pixels.
        fill: what pixels get that no class takes.
        background_threshold: with fill "background" a pixel is background if every candidate's map, scaled to
            maximum 1, is below it; None: the image's own threshold by ``otsu_threshold``.
        normalised: the maps are compared as they are, since they were divided by their sums before.

    Returns:
        The mask, (H, W), as ``assign_paper`` has it, and its confidence, (H, W): 255 times the winner's share of the
        sum of the candidates' maps there, so at least 255 / K where a class was painted, and 255 all over if there is
        one candidate. With fill "background" that share is multiplied by how far the largest map, scaled to maximum 1,
        is above the threshold, and a pixel of the background has how far it is below, 0 at the threshold and 255 at the
        end. 0 where nothing was decided, and all over if all maps are zero.
    """
    count = len(maps)
    if not count:
        return np.full(size, IGNORE, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
    values, places = _values(maps), torch.arange(count)
    if not (known := bool(values.any())):
        places = _values(probabilities).argmax()[None]
        values = values[places]
    scores = _upsample(values if normalised else _scaled(values, values.sum(dim=(1, 2), keepdim=True)), size)
    largest, best = scores.max(dim=0)  # (H, W)
    share = torch.ones_like(largest) if count == 1 else _scaled(largest, scores.sum(dim=0))
    painted = (largest > 0) if len(places) > 1 else torch.ones(size, dtype=torch.bool)
    if fill == "background":
        peak = _scaled(scores, scores.amax(dim=(1, 2), keepdim=True)).amax(dim=0)
        threshold = otsu_threshold(peak.numpy()) if background_threshold is None else background_threshold
        painted &= peak >= threshold
        above, below = (peak - threshold) / max(1 - threshold, TOLERANCE), 1 - peak / max(threshold, TOLERANCE)
        share = torch.where(painted, share * above, below).clamp(0, 1)
    mask = torch.where(painted, places[best], _blank(fill, count)).to(torch.uint8).numpy()
    confidence = (255 * share * known).round().to(torch.uint8).numpy()
    return (_spread(mask, painted.numpy()) if fill == "nearest" else mask), confidence


def mask_values(mask: NDArray[np.uint8], classes: ClassTable, candidates: Sequence[int]) -> NDArray[np.uint8]:
    """Translates places of candidates, and the place after the last as background, to the mask values of ``classes``.

    Args:
        mask: places 0..K-1, K for the background, 255 stays; any shape.
        classes: the data set's classes.
        candidates: indices of the K class tokens.
    """
    table, tokens = np.full(256, IGNORE, dtype=np.uint8), classes.tokens
    table[: len(candidates)] = [tokens[c] for c in candidates]
    if classes.background is not None:
        table[len(candidates)] = classes.background
    return np.asarray(table[mask])


def _values(tensor: Tensor) -> Tensor:
    """The numbers alone, in double precision on the CPU."""
    return tensor.detach().cpu().double()


def _blank(fill: Fill, candidates: int) -> int:
    """The value of unpainted pixels before any spreading."""
    return candidates if fill == "background" else IGNORE


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
