"""Pictures of the report: photographs, masks, class maps and curves, as text that can stand inside an HTML page."""

from __future__ import annotations

import base64
import colorsys
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctm.data.classes import IGNORE, ClassTable
from ctm.evaluation.svg import inline_svg, svg_style, svg_text

__all__ = [
    "class_colours",
    "curves_svg",
    "heat_overlay",
    "heat_picture",
    "mask_overlay",
    "mask_picture",
    "number",
    "photo_picture",
    "shown",
    "swatches",
]

LONGEST_SIDE = 320
"""Size of a picture in pixels at most: sharp in a column of the page, and eight samples stay far below 3 MB."""

COLOURS = np.frombuffer(
    bytes.fromhex(
        "0072B2 E69F00 009E73 CC79A7 56B4E9 D55E00 F0E442"  # Okabe and Ito, without black
        "3C00A5 69000F 4B1E5A 00FF87 B400FF B4F0C3 E1004B A50000 960F4B B469FF C3A54B 5A4BC3 96F0FF 785A87 78C378"
        "3C692D 870F87"  # each as far as can be from those before it, for every kind of eye
    ),
    dtype=np.uint8,
).reshape(-1, 3)
"""First colours given to classes. Normal, protanope, deuteranope and tritanope eyes tell any two of them, and the grey
of a background, apart: 14 units of CIELAB or more lie between them, and over grey photographs 10 between the first
twelve. Later ones, by golden steps round the colour circle, only differ: of 151 colours nobody can name each."""

BACKGROUND_COLOUR = (198, 198, 202)
OPACITY = 0.62
"""Of a mask's colour over the grey photograph."""

CURVE_COLOURS = ("#3b82c4", "#d97a1a", "#1f9e77", "#b565a7", "#8c8c3c")
"""Colour-blind safe, and readable on white as on near-black."""

CURVE_STYLES = ("-", "--", "-.", ":")
CURVE_WORDS = {"map": "mAP", "miou": "mIoU", "bce": "BCE", "pseudo": "pseudo-mask"}


def class_colours(classes: ClassTable) -> NDArray[np.uint8]:
    """Colours of the mask values in the report, (K, 3): distinct hues, and grey for a background.

    PASCAL VOC's palette, which mask files carry, is not used here: it begins with black and dark red, which cannot be
    told apart over a photograph.
    """
    colours = np.empty((len(classes.names), 3), dtype=np.uint8)
    for place, k in enumerate(classes.tokens):
        colours[k] = _colour(place)
    if classes.background is not None:
        colours[classes.background] = BACKGROUND_COLOUR
    return colours


def swatches(classes: ClassTable) -> dict[str, str]:
    """The colour of each class by its name, as CSS and Pillow read it."""
    return {name: f"#{bytes(colour).hex()}" for name, colour in zip(classes.names, class_colours(classes), strict=True)}


def photo_picture(image: NDArray[np.uint8], *, side: int = LONGEST_SIDE) -> str:
    """The image (H, W, 3) itself, as a data URI whose longer side has at most ``side`` pixels."""
    return _data_uri(shown(image, side=side))


def mask_picture(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], colours: NDArray[np.uint8], *, side: int = LONGEST_SIDE
) -> str:
    """``mask_overlay`` as a data URI."""
    return _data_uri(mask_overlay(image, mask, colours, side=side))


def mask_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], colours: NDArray[np.uint8], *, side: int
) -> NDArray[np.uint8]:
    """A mask in colours over the grey image, with white borders between classes, (h, w, 3).

    Args:
        image: (H, W, 3).
        mask: (H, W) mask values; pixels of 255 stay grey.
        colours: (K, 3) of the mask values.
        side: pixels of the longer side at most.
    """
    grey = _grey(shown(image, side=side))
    size = (grey.shape[1], grey.shape[0])
    values = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    table = np.zeros((IGNORE + 1, 3), dtype=np.float32)
    table[: len(colours)] = colours
    opacity = np.where(values == IGNORE, 0.0, OPACITY)[..., None]
    picture: NDArray[np.uint8] = (grey * (1 - opacity) + table[values] * opacity).astype(np.uint8)
    picture[_borders(values)] = 255
    return picture


def heat_picture(image: NDArray[np.uint8], class_map: NDArray[np.floating]) -> str:
    """``heat_overlay`` at the size of the page, as a data URI."""
    return _data_uri(heat_overlay(image, class_map, side=LONGEST_SIDE))


def heat_overlay(
    image: NDArray[np.uint8],
    class_map: NDArray[np.floating],
    *,
    side: int,
    missing: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """A class map from dark (its lowest value) to bright yellow (its highest) over the grey image, (h, w, 3).

    Args:
        image: (H, W, 3).
        class_map: (h0, w0), any range; a constant map leaves the image dark.
        side: pixels of the longer side at most.
        missing: (H, W) pixels without value: they stay grey, and cells that hold no others do not count for the range.
    """
    from matplotlib import colormaps

    grey = _grey(shown(image, side=side))
    size = (grey.shape[1], grey.shape[0])
    values = class_map.astype(np.float32)
    if missing is not None and missing.any() and not missing.all():
        shares = Image.fromarray(missing.astype(np.float32)).resize(values.shape[::-1], Image.Resampling.BOX)
        seen = np.asarray(shares) < 1
        values = np.where(seen, values, values[seen].min()) if seen.any() else values
    values = values - values.min()
    values /= max(float(values.max()), np.finfo(np.float32).tiny)
    heat = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))
    colour = colormaps["inferno"](heat)[..., :3] * 255
    opacity = (0.45 + 0.4 * heat)[..., None]
    if missing is not None:
        hidden = np.asarray(Image.fromarray(missing).resize(size, Image.Resampling.NEAREST))
        opacity = np.where(hidden[..., None], 0, opacity)
    picture: NDArray[np.uint8] = (grey * (1 - opacity) + colour * opacity).astype(np.uint8)
    return picture


def shown(image: NDArray[np.uint8], *, side: int) -> NDArray[np.uint8]:
    """The image at the size of the page: large ones reduced, small ones enlarged in whole, visible pixels."""
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= side:
        factor = side // longest
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    size = (max(1, width * side // longest), max(1, height * side // longest))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), dtype=np.uint8)


def curves_svg(rows: Sequence[Mapping[str, object]], columns: Sequence[str], *, bounded: bool = False) -> str:
    """Curves over the epochs as an SVG element without background, to be put into a page as it is.

    Args:
        rows: lines of a history.csv; values may be text. ``epoch`` is the x axis, or the line's number without it.
        columns: the columns to draw; cells that are empty or no number are passed over.
        bounded: whether the values lie in 0..1 and the y axis, which begins at 0, shows all of it.
    """
    from matplotlib.figure import Figure  # without pyplot: no global state, no display
    from matplotlib.ticker import MaxNLocator

    with svg_style():
        figure = Figure(figsize=(4.0, 2.4), layout="constrained")
        axes = figure.add_subplot()
        for place, column in enumerate(columns):
            points = [
                (number(row.get("epoch", line)), number(row.get(column))) for line, row in enumerate(rows, start=1)
            ]
            known = [point for point in points if math.isfinite(point[1])]
            axes.plot(
                *zip(*known, strict=True),
                color=CURVE_COLOURS[place % len(CURVE_COLOURS)],
                linestyle=CURVE_STYLES[place % len(CURVE_STYLES)],
                linewidth=1.8,
                marker="o" if len(known) == 1 else None,
                label=" ".join(CURVE_WORDS.get(word, word) for word in column.split("_")),
            )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set_ylim(0, 1.02 if bounded else None)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=2.2)
        return inline_svg(svg_text(figure))


def number(value: object) -> float:
    """A cell of a history as a number, NaN where it is empty or is none."""
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _colour(place: int) -> tuple[int, ...]:
    """The colour of a class token: from the list, and after it by golden steps round the colour circle."""
    if place < len(COLOURS):
        return tuple(COLOURS[place].tolist())
    hue = place * 0.618034 % 1
    red, green, blue = colorsys.hls_to_rgb(hue, (0.38, 0.52, 0.68)[place % 3], (0.75, 0.5)[place % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The image (H, W, 3) without its colours."""
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float32)
    return np.repeat(grey[..., None], 3, axis=2)


def _borders(values: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (H, W) whose right or lower neighbour has another value."""
    borders = np.zeros(values.shape, dtype=bool)
    borders[:, :-1] |= values[:, :-1] != values[:, 1:]
    borders[:-1] |= values[:-1] != values[1:]
    return borders


def _data_uri(picture: NDArray[np.uint8]) -> str:
    """The picture (H, W, 3) as a JPEG inside a data URI; full colour resolution keeps borders crisp."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=82, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
