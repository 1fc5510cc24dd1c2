"""The contact sheet: which images are on it, that what is rare stands out, and that it stands for any data set."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from ctm.data.classes import ClassTable
from ctm.data.contact_sheet import COLUMN, MARGIN, WARNING, WARNING_PAPER, choose_examples, write_contact_sheet
from ctm.data.sample import encode_array
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import ShardFolder
from ctm.errors import ArtifactError

CLASSES = ClassTable(("background", "cow", "sky"), background=0)
SIZE = (24, 36)


@dataclass(frozen=True)
class Picture:
    """A sample: its labels, and its image or (with an extension) the bytes that should be one."""

    labels: Sequence[int]
    image: NDArray[np.uint8] | None = None
    data: bytes = b""
    extension: str = "png"
    key: str = ""


def colour(number: int) -> tuple[int, int, int]:
    """A colour of its own for each number, which thumbnails keep and nothing else on the sheet has."""
    return (200, 4 * (number % 60), 4 * (number // 60))


def plain(number: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.full((*size, 3), colour(number), dtype=np.uint8)


def write(folder: Path, splits: dict[str, list[Picture]], classes: ClassTable = CLASSES) -> ShardFolder:
    entries = {}
    for split, pictures in splits.items():
        with ShardWriter(folder, split, classes=classes) as writer:
            for number, picture in enumerate(pictures):
                image = plain(number) if picture.image is None else picture.image
                buffer = io.BytesIO()
                Image.fromarray(image).save(buffer, "PNG")
                members = {picture.extension: picture.data or buffer.getvalue()}
                height, width = image.shape[:2]
                key = picture.key or f"s{number}"
                writer.add(key, members, labels=picture.labels, height=height, width=width)
        entries[split] = writer.entry
    index = ShardIndex(kind="images", classes=classes.names, background=classes.background, channels=3, splits=entries)
    write_index(folder, index)
    return ShardFolder.open(folder)


def drawn(shards: ShardFolder, path: Path) -> NDArray[np.uint8]:
    write_contact_sheet(shards, path)
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def where(sheet: NDArray[np.uint8], rgb: tuple[int, ...]) -> NDArray[np.int64]:
    """Rows and columns (N, 2) of the pixels of a colour."""
    return np.argwhere((sheet == rgb).all(axis=2))


def shown(sheet: NDArray[np.uint8], numbers: Sequence[int]) -> list[int]:
    return [number for number in numbers if len(where(sheet, colour(number)))]


def test_examples_are_taken_at_even_steps_from_those_with_few_labels_to_those_with_many(tmp_path: Path):
    labels = [(1, 2) if number % 2 else (1,) for number in range(40)]
    train = write(tmp_path, {"train": [Picture(values) for values in labels]}).split("train")
    assert choose_examples(train, train.labels[:, 0], count=4) == [10, 30, 11, 31]
    assert choose_examples(train, train.labels[:, 1], count=2) == [11, 31]
    assert choose_examples(train, train.labels[:, 1], count=50) == list(range(1, 40, 2))
    assert choose_examples(train, np.zeros(40, dtype=bool)) == []


def test_a_row_a_class_the_most_frequent_first_with_its_own_images(tmp_path: Path):
    shards = write(tmp_path / "shards", {"train": [Picture((1,))] * 12 + [Picture((2,))] * 13, "val": [Picture((1,))]})
    sheet = drawn(shards, tmp_path / "sheet.png")
    cows, skies = shown(sheet, range(12)), shown(sheet, range(12, 25))
    assert len(cows) == len(skies) == 10
    bottom_of_skies = max(where(sheet, colour(number))[:, 0].max() for number in skies)
    assert bottom_of_skies < min(where(sheet, colour(number))[:, 0].min() for number in cows)


def test_the_same_shards_give_the_same_bytes(shards: ShardFolder, tmp_path: Path):
    for name in ("first", "second"):
        write_contact_sheet(shards, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_thumbnails_keep_the_aspect_ratio(tmp_path: Path):
    tall, wide = plain(1, (400, 100)), plain(2, (30, 90))
    shards = write(tmp_path / "shards", {"train": [Picture((1,), tall), Picture((1,), wide)]})
    sheet = drawn(shards, tmp_path / "sheet.png")
    for number, ratio in ((1, 4.0), (2, 1 / 3)):
        height, width = np.ptp(where(sheet, colour(number)), axis=0) + 1
        assert height / width == pytest.approx(ratio, rel=0.05)


def test_only_the_chosen_images_are_read(tmp_path: Path):
    pictures = [Picture((1,), data=b"no picture")] * 60
    chosen = choose_examples(write(tmp_path / "probe", {"train": pictures}).split("train"), np.ones(60, dtype=bool))
    for number in chosen:
        pictures[number] = Picture((1,))
    shards = write(tmp_path / "shards", {"train": pictures})
    assert shown(drawn(shards, tmp_path / "sheet.png"), range(60)) == chosen


def test_a_damaged_image_is_named(tmp_path: Path):
    shards = write(tmp_path / "shards", {"train": [Picture((1,), data=b"no picture", key="torn")]})
    with pytest.raises(ArtifactError, match=r"train-00000\.tar is damaged: torn\.png cannot be decoded"):
        write_contact_sheet(shards, tmp_path / "sheet.png")


def test_classes_with_few_or_no_train_images_stand_out(tmp_path: Path):
    many, sky = [Picture((1,))] * 20, [Picture((2,))] * 20
    paper, ink = ImageColor.getrgb(WARNING_PAPER), ImageColor.getrgb(WARNING)
    heights = []
    for place, rare in enumerate((0, 3, 20)):
        train = [*many, *sky[:rare]]
        shards = write(tmp_path / str(place), {"train": train, "val": [Picture((1, 2))]})
        sheet = drawn(shards, tmp_path / "sheet.png")
        assert (len(where(sheet, paper)) > 0) == (len(where(sheet, ink)) > 0) == (rare < 10)
        heights.append(len(where(sheet[:, 20:21], paper)))
    assert heights[0] > 0
    assert heights[1] > heights[0]  # the row of a class without train images has no thumbnails


def test_a_class_that_only_val_lacks_is_named_without_a_coloured_row(tmp_path: Path):
    shards = write(tmp_path / "shards", {"train": [Picture((1, 2))] * 10, "val": [Picture((1,))]})
    sheet = drawn(shards, tmp_path / "sheet.png")
    assert len(where(sheet, ImageColor.getrgb(WARNING)))
    assert not len(where(sheet, ImageColor.getrgb(WARNING_PAPER)))


def test_images_without_label_have_a_row_of_their_own_where_there_are_any(tmp_path: Path):
    labelled = [Picture((1, 2))] * 12
    without = drawn(write(tmp_path / "a", {"train": labelled}), tmp_path / "sheet.png")
    sheet = drawn(write(tmp_path / "b", {"train": [*labelled, Picture(())]}), tmp_path / "sheet.png")
    assert len(sheet) > len(without)
    last = where(sheet, colour(12))
    assert last[:, 0].min() > max(where(sheet, colour(number))[:, 0].max() for number in shown(sheet, range(12)))


@pytest.mark.parametrize("channels", [1, 2, 4, 13, 15])
def test_images_of_any_number_of_bands_are_shown(tmp_path: Path, channels: int):
    rng = np.random.default_rng(channels)
    arrays = [rng.uniform(0, 1, size=(channels, 20, 20)).astype(np.float32) for _ in range(3)]
    arrays[0][:, :3] = np.nan
    pictures = [Picture((1, 2), data=encode_array(array), extension="npy") for array in arrays]
    sheet = drawn(write(tmp_path / "shards", {"train": pictures}), tmp_path / "sheet.png")
    values = sheet[:, COLUMN + 2 * MARGIN :].astype(int)
    coloured = (values.max(axis=2) - values.min(axis=2) > 150).mean()
    assert coloured > 0.005 if channels > 2 else coloured < 0.005


@pytest.mark.parametrize("count", [1, 8, 151])
def test_the_sheet_has_one_width_for_any_number_of_classes_and_any_names(tmp_path: Path, count: int):
    words = ("a" * 300, "Höhle, 洞窟", "ulcerative-colitis-grade-0-1", "traffic light")
    classes = ClassTable(tuple(f"{number} {words[number % len(words)]}" for number in range(count)))
    picture = Picture(range(count), key="COCO_train2014_000000000009_" + 100 * "x")
    sheet = drawn(write(tmp_path / "shards", {"train": [picture], "val": []}, classes), tmp_path / "sheet.png")
    first = drawn(write(tmp_path / "first", {"train": [Picture((1,))]}), tmp_path / "first.png")
    assert sheet.shape[1] == first.shape[1]
    margin = sheet[:, -20:].reshape(-1, 3)
    assert set(map(tuple, margin.tolist())) == {(255, 255, 255), ImageColor.getrgb(WARNING_PAPER)}


def test_a_split_without_images_is_no_error(tmp_path: Path):
    sheet = drawn(write(tmp_path / "shards", {"train": [], "val": []}), tmp_path / "sheet.png")
    assert len(where(sheet, ImageColor.getrgb(WARNING_PAPER)))


def test_shards_without_train_are_refused_by_name(tmp_path: Path):
    shards = write(tmp_path / "shards", {"val": [Picture((1,))]})
    with pytest.raises(ArtifactError, match=r"has no split 'train'; splits: val"):
        write_contact_sheet(shards, tmp_path / "sheet.png")
