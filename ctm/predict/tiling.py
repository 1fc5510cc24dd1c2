"""Masks of images of any size, tile by tile, in memory that does not grow with their height.

Neighbouring tiles overlap by a quarter of a tile or more. There their logits are blended with weights that sum to one:
those of a tile are 0 on the outer quarter of the overlap, where a network sees the tile's border rather than the image,
and rise over its middle half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ctm.data.classes import IGNORE
from ctm.predict.network import Network
from ctm.predict.sources import Rows, Source

__all__ = ["tile_starts", "tile_weights", "tiled_mask"]

OVERLAP = 4
"""A tile shares one part in so many with its neighbour."""


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles begin along a side: every three quarters of a tile, and so that the last one ends with the side.

    Equal steps keep the tiles on a grid: a network that reduces its input sees the same cells in every tile.

    Args:
        length: of the side in pixels.
        tile: of a tile's side; one that is longer than the image's begins at 0.

    >>> tile_starts(300, 100)
    [0, 75, 150, 200]
    """
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - tile // OVERLAP), length - tile]


def tile_weights(starts: Sequence[int], tile: int) -> NDArray[np.float32]:
    """The weight of each pixel of each tile along a side, (tiles, tile); at every pixel of the side they sum to one."""
    overlap = tile // OVERLAP
    border = overlap // 4
    ramp = np.clip((np.arange(tile) - border + 0.5) / max(overlap - 2 * border, 1), 0, 1)
    weights = np.ones((len(starts), tile))
    weights[1:] *= ramp
    weights[:-1] *= ramp[::-1]
    total = np.zeros(starts[-1] + tile)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + tile] += row
    shares = [row / total[start : start + tile] for start, row in zip(starts, weights, strict=True)]
    return np.stack(shares).astype(np.float32)


def tiled_mask(source: Source, network: Network, tile: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yields the mask of an image from top to bottom, a band of rows (rows, W) for each row of tiles.

    Every tile is resized to the model's input as training images are, and its logits back. A tile that hangs over the
    image (one narrower or lower than a tile) is filled by reflection, so that the ground keeps its resolution. Pixels
    without value become 255.

    Memory, beside the model's own: tile height x image width x classes x 4 bytes of logits, and as much of the image.

    Args:
        source: the image.
        network: the segmenter.
        tile: height and width of a tile in pixels of the image.

    Raises:
        DataError: the image cannot be read to its end.
    """
    (height, width), (tall, broad) = source.size, tile
    tops, lefts = tile_starts(height, tall), tile_starts(width, broad)
    down = torch.from_numpy(tile_weights(tops, tall))
    across = torch.from_numpy(tile_weights(lefts, broad))
    sums = torch.zeros(len(network.classes.names), tall, width)
    for top, end, weights in zip(tops, [*tops[1:], height], down, strict=True):
        rows = source.read(top, min(top + tall, height))
        for place, logits in _tiles(source, rows, network, tile=tile, lefts=lefts):
            piece = sums[:, : len(rows.missing), lefts[place] : lefts[place] + broad]
            shares = torch.outer(weights, across[place])
            piece.addcmul_(logits[:, : piece.shape[1], : piece.shape[2]], shares[: piece.shape[1], : piece.shape[2]])
        done = end - top
        mask: NDArray[np.uint8] = sums[:, :done].argmax(dim=0).to(torch.uint8).numpy()
        mask[rows.missing[:done]] = IGNORE
        yield mask
        _move_up(sums, done)


def _tiles(
    source: Source, rows: Rows, network: Network, *, tile: tuple[int, int], lefts: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """The place in its row and the logits (K, h, w), at the image's resolution, of every tile that holds a value."""
    wanted = [place for place, left in enumerate(lefts) if not rows.missing[:, left : left + tile[1]].all()]
    for start, stop in pairwise([*range(0, len(wanted), network.batch_size), len(wanted)]):
        pieces = [rows.values[:, :, lefts[place] : lefts[place] + tile[1]] for place in wanted[start:stop]]
        logits = network.logits([source.stored(_filled(piece, tile)) for piece in pieces])
        native = interpolate(logits, size=tile, mode="bilinear", align_corners=False).cpu()
        yield from zip(wanted[start:stop], native, strict=True)


def _filled(piece: NDArray[np.generic], tile: tuple[int, int]) -> NDArray[np.generic]:
    """A piece (bands, h, w) as large as a tile: what hangs over the image is its mirror image."""
    _, height, width = piece.shape
    if (height, width) == tile:
        return piece
    return np.pad(piece, ((0, 0), (0, tile[0] - height), (0, tile[1] - width)), mode="symmetric")


def _move_up(sums: Tensor, done: int) -> None:
    """Forgets the first rows and makes room for as many below, plane by plane: without a second copy of all."""
    kept = sums.shape[1] - done
    for plane in sums:
        if kept > 0:
            plane[:kept] = plane[done:].clone()
        plane[max(kept, 0) :] = 0
