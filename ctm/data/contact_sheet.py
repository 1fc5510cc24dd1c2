"""One picture of a data set: how frequent each class is, and train images of each, so that wrong labels are seen."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctm.data.display import SHADES, display_rgb, font
from ctm.data.shards import ShardFolder, Split

__all__ = ["choose_examples", "write_contact_sheet"]

TRAIN = "train"
THUMBNAILS = 10
"""Train images shown of a class."""

RARE = THUMBNAILS
"""Classes with fewer train images stand out: all of their images are on the sheet, and those are few to learn from."""

MARGIN = 32
COLUMN = 240
"""Width of the column with names, counts and bars."""

CELL = 128
"""Width of a thumbnail at most; about 20 characters stand beneath it."""

GAP = 12
FIRST_CELL = MARGIN + COLUMN + 2 * GAP
WIDTH = FIRST_CELL + THUMBNAILS * (CELL + GAP) - GAP + MARGIN
CONTENT = WIDTH - 2 * MARGIN

TITLE, TEXT, NAME, COUNT, SMALL = 30, 17, 20, 13, 12
"""Sizes of the font; at some others its spaces nearly vanish."""

LEADING = 1.3
"""Height of a line as a multiple of its font's size."""

BAR = 6
LABEL_LINES = 3
"""Lines for the other labels of an image; those that do not fit are counted."""

PAPER, INK, SOFT, RULE, TRACK = "#FFFFFF", "#1F2933", "#5F6B7A", "#DDE2E8", "#E6EAEE"
WARNING, WARNING_PAPER = "#AD3F00", "#FDF1E6"
BARS = ("#0072B2", "#7FA8C4")
"""Of train and of any other split: they differ in lightness, whatever colours a reader can tell apart."""

LEGEND = (
    "Rows: classes, the most frequent in train first. Bars: share of the images of the split, linear, full at the "
    "largest share on the sheet.",
    "Pictures: train images that carry the label, a sample of all of them; on the left those with the fewest labels, "
    "on the right those with the most. Beneath each: its key, + its other labels.",
)

DRAWN = frozenset(map(chr, range(32, 127))) | {"…"}
"""What Pillow's own font has; no other font is on every machine."""


def write_contact_sheet(shards: ShardFolder, path: Path) -> None:
    """Writes a PNG with a row a class: how many images of each split carry it, and some of train's images.

    The classes are ordered by their frequency in train; those with few or no train images stand out, and images
    without any label have a row at the end. Which images are shown is up to ``choose_examples``. Only these are read,
    and one at a time: memory does not grow with the number of images, only by about 1 MB a class for the sheet itself.
    The same shards give the same bytes.

    Args:
        shards: a folder of images that has a split ``train``.
        path: the file to write.

    Raises:
        ArtifactError: there is no split ``train``, or an image is damaged.
    """
    train = shards.split(TRAIN)
    samples = {name: entry.samples for name, entry in shards.index.splits.items()}
    rows = _rows(shards, train)
    lines = _header(rows, samples, labels_per_image=float(train.labels.sum() / max(len(train), 1)))
    cell = _cell_height(train)

    top = MARGIN + sum(map(_line_height, (line.size for line in lines))) + GAP
    picture = Image.new("RGB", (WIDTH, top + sum(_row_height(row, cell) for row in rows) + MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_lines(draw, (MARGIN, MARGIN), lines)
    full = max((count / max(samples[split], 1) for row in rows for split, count in row.counts.items()), default=0.0)
    for row in rows:
        height = _row_height(row, cell)
        _draw_frame(draw, row, top, height)
        _draw_counts(draw, row, top + GAP, samples=samples, full=full)
        _draw_examples(picture, row, top + GAP, split=train, cell=cell)
        top += height
    picture.save(path, format="PNG")


def choose_examples(split: Split, carrying: NDArray[np.bool_], *, count: int = THUMBNAILS) -> list[int]:
    """A few samples that stand for all those that carry a label.

    The samples are ordered by their number of labels, then by their place in the split, and taken at even steps. Such
    a systematic sample is as mixed as the class: wrong labels are as frequent in it as in the data, which a choice of
    clean images, those with few other labels, would hide. The order helps the eye: first come images where the class
    stands alone, in which an absent object, or one that should have a label of its own, is seen at a glance; last
    come crowded scenes, in which it has to be looked for.

    Args:
        split: the samples.
        carrying: (N,) those to choose from.
        count: how many to choose; fewer where there are not so many.

    Returns:
        Positions in the split.
    """
    places = np.flatnonzero(carrying)
    places = places[np.argsort(split.labels[places].sum(axis=1), kind="stable")]
    count = min(count, len(places))
    middles = (2 * np.arange(count) + 1) * len(places) // max(2 * count, 1)
    return [int(place) for place in places[middles]]


@dataclass(frozen=True)
class _Example:
    """A train image: its position, its key and its other labels as lines of text."""

    index: int
    key: str
    others: list[str]


@dataclass(frozen=True)
class _Row:
    """A class, or the images without label (where ``value`` is None): images of each split, and examples of train."""

    name: str
    value: int | None
    counts: dict[str, int]
    examples: list[_Example]

    @property
    def stands_out(self) -> bool:
        return self.value is not None and self.counts[TRAIN] < RARE


@dataclass(frozen=True)
class _Line:
    text: str
    size: int
    colour: str = INK


def _rows(shards: ShardFolder, train: Split) -> list[_Row]:
    """The classes, the most frequent first and else in the order of the mask values, and the images without label."""
    names = [_drawable(name) for name in shards.classes.token_names]
    shown = [name for name, entry in shards.index.splits.items() if entry.samples or name == TRAIN]
    counts = {name: _counts(train if name == TRAIN else shards.split(name)) for name in shown}
    order = sorted(range(len(names)), key=lambda token: -counts[TRAIN][token])
    rows = [
        _Row(
            name=names[token],
            value=shards.classes.tokens[token],
            counts={split: numbers[token] for split, numbers in counts.items()},
            examples=_examples(train, train.labels[:, token], names=names, token=token),
        )
        for token in order
    ]
    unlabelled = {split: numbers[-1] for split, numbers in counts.items()}
    if any(unlabelled.values()):
        examples = _examples(train, train.labels.sum(axis=1) == 0, names=names)
        rows.append(_Row(name="no label", value=None, counts=unlabelled, examples=examples))
    return rows


def _counts(split: Split) -> list[int]:
    """Samples with each class token, and at the end those without any."""
    return [*map(int, split.labels.sum(axis=0)), int((split.labels.sum(axis=1) == 0).sum())]


def _examples(
    split: Split, carrying: NDArray[np.bool_], *, names: Sequence[str], token: int | None = None
) -> list[_Example]:
    examples = []
    for index in choose_examples(split, carrying):
        others = [names[other] for other in np.flatnonzero(split.labels[index]).tolist() if other != token]
        if others:
            others[0] = f"+ {others[0]}"
        lines = list(_wrapped(others, SMALL, width=CELL, lines=LABEL_LINES))
        examples.append(_Example(index, _shortened(split.keys[index], SMALL, CELL), lines))
    return examples


def _header(rows: Sequence[_Row], samples: dict[str, int], *, labels_per_image: float) -> list[_Line]:
    """What stands above the rows: counts, imbalance, classes that need attention, and how to read the sheet."""
    classes = [row for row in rows if row.value is not None]
    counts = ", ".join(f"{count:,} {split}" for split, count in samples.items())
    lines = [_Line(f"{counts}, {_number(len(classes), 'class', 'classes')}", TITLE)]
    seen = [row for row in classes if row.counts[TRAIN]]
    if seen:
        most, least = (f"{row.name} {row.counts[TRAIN]:,}" for row in (seen[0], seen[-1]))
        ratio = seen[0].counts[TRAIN] / seen[-1].counts[TRAIN]
        text = f"{labels_per_image:.2f} labels a train image. Imbalance: {most} to {least}, {ratio:,.1f} : 1."
        lines.append(_Line(_shortened(text, TEXT, CONTENT), TEXT))
    for title, found in _warnings(classes).items():
        if found:
            words = [f"{title}: {found[0]}", *found[1:]]
            lines += [_Line(text, TEXT, WARNING) for text in _wrapped(words, TEXT, width=CONTENT, lines=3)]
    return [*lines, *(_Line(text, COUNT, SOFT) for text in LEGEND)]


def _warnings(classes: Sequence[_Row]) -> dict[str, list[str]]:
    """Names of the classes with something wrong, by what it is."""
    few = [row for row in classes if 0 < row.counts[TRAIN] < RARE]
    others = dict.fromkeys(split for row in classes for split in row.counts if split != TRAIN)
    return {
        "No train image": [row.name for row in classes if not row.counts[TRAIN]],
        f"Fewer than {RARE} train images": [f"{row.name} ({row.counts[TRAIN]})" for row in few],
        **{f"No {split} image": [row.name for row in classes if not row.counts[split]] for split in others},
    }


def _cell_height(split: Split) -> int:
    """Height of a thumbnail at most: that of the split's usual shape, but no more than a square."""
    if not len(split):
        return CELL
    heights, widths = split.sizes.T
    return round(CELL / min(max(float(np.median(widths / heights)), 1.0), 1.6))


def _row_height(row: _Row, cell: int) -> int:
    counts = _line_height(NAME) + len(row.counts) * (_line_height(COUNT) + BAR + 5) + _line_height(SMALL)
    labels = max((len(example.others) for example in row.examples), default=0)
    pictures = cell + 4 + (1 + labels) * _line_height(SMALL) if row.examples else 0
    return GAP + max(counts, pictures) + GAP


def _draw_frame(draw: ImageDraw.ImageDraw, row: _Row, top: int, height: int) -> None:
    if row.stands_out:
        draw.rectangle((0, top, WIDTH, top + height - 1), fill=WARNING_PAPER)
        draw.rectangle((0, top, 7, top + height - 1), fill=WARNING)
    draw.line((MARGIN, top, WIDTH - MARGIN, top), fill=RULE)


def _draw_counts(draw: ImageDraw.ImageDraw, row: _Row, top: int, *, samples: dict[str, int], full: float) -> None:
    """The name, and of each split the number of images, their share and a bar."""
    size = next((size for size in (NAME, TEXT) if _length(row.name, size) <= COLUMN), COUNT)
    draw.text((MARGIN, top), _shortened(row.name, size, COLUMN), INK, font(size))
    top += _line_height(NAME)
    for place, (split, count) in enumerate(row.counts.items()):
        share = count / max(samples[split], 1)
        few = row.value is not None and count < (RARE if split == TRAIN else 1)
        text = f"{'only ' if few else ''}{_number(count, f'{split} image')}" if count else f"no {split} image"
        draw.text((MARGIN, top), text, WARNING if few else INK, font(COUNT))
        draw.text((MARGIN + COLUMN, top), _percent(share), SOFT, font(COUNT), anchor="ra")
        top += _line_height(COUNT)
        draw.rectangle((MARGIN, top, MARGIN + COLUMN - 1, top + BAR - 1), fill=TRACK)
        if count:
            length = max(2, round(COLUMN * share / full))
            draw.rectangle((MARGIN, top, MARGIN + length - 1, top + BAR - 1), fill=BARS[min(place, 1)])
        top += BAR + 5
    if row.value is not None:
        draw.text((MARGIN, top), f"mask value {row.value}", SOFT, font(SMALL))


def _draw_examples(picture: Image.Image, row: _Row, top: int, *, split: Split, cell: int) -> None:
    """The thumbnails, each above its key and its other labels."""
    draw = ImageDraw.Draw(picture)
    if not row.counts[TRAIN]:
        draw.text((FIRST_CELL, top + 4), "No train image: the classifier cannot learn this class", WARNING, font(TEXT))
    for place, example in enumerate(row.examples):
        left = FIRST_CELL + place * (CELL + GAP)
        thumbnail = _thumbnail(split.image(example.index), cell)
        picture.paste(thumbnail, (left, top + cell - thumbnail.height))
        lines = [_Line(example.key, SMALL, SOFT), *(_Line(text, SMALL) for text in example.others)]
        _draw_lines(draw, (left, top + cell + 4), lines)


def _thumbnail(image: NDArray[np.generic], height: int) -> Image.Image:
    """The image as large as it can be in a cell, in its own proportions."""
    picture = Image.fromarray(display_rgb(image))
    factor = min(CELL / picture.width, height / picture.height)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS).point(SHADES * 3)


def _draw_lines(draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[_Line]) -> None:
    left, top = place
    for line in lines:
        draw.text((left, top), line.text, line.colour, font(line.size))
        top += _line_height(line.size)


def _wrapped(words: Sequence[str], size: int, *, width: int, lines: int) -> Iterator[str]:
    """The words, with commas between them, as so many lines at most; words that do not fit are counted."""
    line = ""
    for place, word in enumerate(words):
        after = len(words) - place - 1
        if line and lines > 1 and _length(f"{line}, {word}", size) > width:
            yield f"{line},"
            line, lines = "", lines - 1
        room = width - (_length(f", {after} more", size) if after and lines == 1 else 0)
        longer = f"{line}, {word}" if line else _shortened(word, size, room)
        if _length(longer, size) > room:
            yield f"{line}, {after + 1} more"
            return
        line = longer
    if line:
        yield line


def _shortened(text: str, size: int, width: float) -> str:
    """The text without what is too long of its middle; most of what stays is its end, where keys differ."""
    if _length(text, size) <= width:
        return text

    def cut(kept: int) -> str:
        return f"{text[: kept // 3]}…{text[len(text) - kept + kept // 3 :]}"

    too_long = bisect_right(range(len(text)), width, key=lambda kept: _length(cut(kept), size))
    return cut(max(too_long - 1, 0))


def _drawable(text: str) -> str:
    """The text in characters that the font has: accents are dropped, what is left unknown becomes a question mark."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c in DRAWN else "?" for c in plain)


def _number(count: int, singular: str, plural: str = "") -> str:
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"


def _percent(share: float) -> str:
    if share == 0:
        return "0 %"
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _length(text: str, size: int) -> float:
    return font(size).getlength(text)


def _line_height(size: int) -> int:
    return round(size * LEADING)
