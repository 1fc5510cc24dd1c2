"""The plain folder layout: what it reads, and one clear error for each kind of bad input."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctm.data.config import DatasetConfig
from ctm.data.datasets import open_dataset
from ctm.data.datasets.reader import Reader
from ctm.data.sample import Sample, decode_image
from ctm.errors import DataError, ParamsError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "msrc21"


def read_all(reader: Reader) -> list[Sample]:
    return [reader.read(split, key) for split, keys in reader.splits().items() for key in keys]


def test_reads_images_labels_masks_and_splits(folder: Path, config: DatasetConfig) -> None:
    reader = open_dataset(config, folder)
    assert reader.classes.names == ("grass", "cow", "sky")
    assert (reader.channels, reader.scale) == (3, 1 / 255)
    assert reader.splits() == {"train": ["c", "a", "b"], "val": ["d", "e"]}
    b = reader.read("train", "b")
    assert (b.key, b.extension, b.height, b.width, b.labels) == ("b", "jpg", 24, 24, (0, 1, 2))
    assert b.image == (folder / "images" / "b.jpg").read_bytes()
    assert b.mask is not None
    assert sorted(np.unique(b.mask)) == [0, 1, 2, 255]
    assert reader.read("train", "c").extension == "png"
    assert reader.read("val", "e").mask is None


def test_background_is_a_mask_value_but_no_label(folder: Path, config: DatasetConfig) -> None:
    reader = open_dataset(config.model_copy(update={"background": "grass"}), folder)
    assert reader.classes.tokens == (1, 2)
    assert reader.read("train", "a").labels == (1,)
    assert reader.read("val", "d").labels == (), "an image of background alone has no label"


def test_without_splits_a_hash_of_the_name_decides(folder: Path, config: DatasetConfig) -> None:
    shutil.rmtree(folder / "splits")
    shutil.rmtree(folder / "masks")
    names = [f"x{number}" for number in range(200)]
    for name in names:
        shutil.copy(folder / "images" / "e.jpg", folder / "images" / f"{name}.jpg")
    with (folder / "labels.csv").open("a") as file:
        file.writelines(f"{name},sky\n" for name in names)
    splits = open_dataset(config, folder).splits()
    assert set(splits["train"]).isdisjoint(splits["val"])
    assert 0.1 < len(splits["val"]) / 205 < 0.3
    (folder / "images" / "x0.jpg").unlink()
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text().replace("x0,sky\n", ""))
    again = open_dataset(config, folder).splits()
    assert [key for key in splits["val"] if key != "x0"] == again["val"], "other images stay where they were"


def test_labels_may_have_a_byte_order_mark_more_columns_and_quotes(folder: Path, config: DatasetConfig) -> None:
    rows = 'place,classes,image\r\n"Bern, CH","grass;cow",a\r\n,cow,b\r\n,cow,c\r\n,grass,d\r\n,sky,e\r\n'
    (folder / "labels.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    (folder / "classes.txt").write_bytes(b"\xef\xbb\xbfgrass\r\ncow\r\nsky\r\n")
    assert open_dataset(config, folder).read("train", "a").labels == (0, 1)


def test_other_formats_are_stored_as_lossless_png(folder: Path, config: DatasetConfig) -> None:
    pixels = np.asarray(Image.open(folder / "images" / "c.png"))
    (folder / "images" / "c.png").unlink()
    Image.fromarray(pixels).save(folder / "images" / "c.bmp")
    sample = open_dataset(config, folder).read("train", "c")
    assert sample.extension == "png"
    np.testing.assert_array_equal(decode_image(sample.image, "png"), pixels.transpose(2, 0, 1))


def test_names_with_dots_become_safe_keys(folder: Path, config: DatasetConfig) -> None:
    (folder / "images" / "a.jpg").rename(folder / "images" / "a.v1.jpg")
    (folder / "masks" / "a.png").rename(folder / "masks" / "a.v1.png")
    for name in ("labels.csv", "splits/train.txt"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("\na", "\na.v1"))
    sample = open_dataset(config, folder).read("train", "a_v1")
    assert sample.mask is not None


def change(root: Path, file: str, old: str, new: str) -> None:
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))


def save_mask(root: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(root / "masks" / "a.png")


BAD = {
    "no images": (lambda r: shutil.rmtree(r / "images"), "images is missing"),
    "no labels": (lambda r: (r / "labels.csv").unlink(), "labels.csv is missing"),
    "no classes": (lambda r: (r / "classes.txt").unlink(), "classes.txt is missing"),
    "empty classes": (lambda r: (r / "classes.txt").write_text("\n"), "classes.txt is empty"),
    "hole in classes": (lambda r: change(r, "classes.txt", "cow", ""), "classes.txt line 2 is empty"),
    "not UTF-8": (lambda r: (r / "labels.csv").write_bytes(b"image,classes\n\xff"), "no UTF-8 text"),
    "wrong header": (
        lambda r: change(r, "labels.csv", "classes", "label"),
        r"no column 'classes'.*\['image', 'label'\]",
    ),
    "comma": (lambda r: change(r, "labels.csv", "a,grass;cow", "a,grass,cow"), "line 2: more cells than columns.*';'"),
    "unknown label": (
        lambda r: change(r, "labels.csv", "c,cow", "c,cwo"),
        "line 4: unknown class 'cwo'; valid names: grass, cow, sky",
    ),
    "empty label": (lambda r: change(r, "labels.csv", "c,cow", "c, ;"), "line 4: the image has no class"),
    "no label row": (lambda r: change(r, "labels.csv", "c,cow\n", ""), "image 'c.png' of split 'train' has no row"),
    "two label rows": (
        lambda r: change(r, "labels.csv", "c,cow", "a.jpg,cow"),
        "line 4: image 'a.jpg' has a row already",
    ),
    "label row without image": (lambda r: (r / "images" / "a.jpg").unlink(), "labels.csv line 2: no image 'a'"),
    "split without image": (lambda r: change(r, "splits/val.txt", "d", "zz"), "val.txt line 1: no image 'zz'"),
    "listed twice": (lambda r: change(r, "splits/val.txt", "d", "e"), "val.txt line 2: image 'e' is listed twice"),
    "in both splits": (lambda r: change(r, "splits/val.txt", "d", "a"), "in train and in val, such as 'a'"),
    "one split file": (lambda r: (r / "splits" / "val.txt").unlink(), "val.txt is missing"),
    "empty split": (lambda r: (r / "splits" / "val.txt").write_text("\n"), "split 'val' is empty"),
    "two of one stem": (
        lambda r: shutil.copy(r / "images" / "a.jpg", r / "images" / "a.png"),
        "'a.jpg' and 'a.png' get one key",
    ),
    "no image at all": (lambda r: [path.unlink() for path in (r / "images").iterdir()], "holds no image"),
    "unreadable image": (lambda r: (r / "images" / "a.jpg").write_bytes(b"no jpeg"), "a.jpg is no readable image"),
    "cut-off image": (
        lambda r: (r / "images" / "a.jpg").write_bytes((r / "images" / "a.jpg").read_bytes()[:-200]),
        "a.jpg is no readable image",
    ),
    "16-bit image": (
        lambda r: Image.new("I;16", (20, 30)).save(r / "images" / "c.png"),
        "c.png: colour mode 'I;16'.*8-bit photographs",
    ),
    "mask of another size": (
        lambda r: save_mask(r, np.zeros((30, 20), dtype=np.uint8)),
        r"a.png: the mask is 20x30 pixels \(width x height\), but its image is 30x20",
    ),
    "unknown mask value": (
        lambda r: save_mask(r, np.full((20, 30), 3, dtype=np.uint8)),
        r"a.png: mask values \[3\] are no class; valid are 0 to 2",
    ),
    "colour mask": (
        lambda r: save_mask(r, np.zeros((20, 30, 3), dtype=np.uint8)),
        "a.png: the mask has colour mode 'RGB'",
    ),
    "unreadable mask": (
        lambda r: (r / "masks" / "a.png").write_bytes(b"no png"),
        "a.png: the bytes are no readable mask",
    ),
    "masks of other names": (
        lambda r: [path.rename(path.with_name(f"{path.stem}_gt.png")) for path in (r / "masks").iterdir()],
        "none of the 4 masks has the name of an image.*found a_gt.png",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_data_error(folder: Path, config: DatasetConfig, case: str) -> None:
    spoil, message = BAD[case]
    spoil(folder)
    with pytest.raises(DataError, match=message):
        read_all(open_dataset(config, folder))


def test_missing_root_and_formats_without_reader_are_data_errors(folder: Path, config: DatasetConfig) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; set dataset\.root"):
        open_dataset(config, folder / "nowhere")
    with pytest.raises(DataError, match="'voc2012' cannot be read yet; formats that can: dfc2020, folder"):
        open_dataset(config.model_copy(update={"format": "voc2012"}), folder)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"background": "void"}, "'void' is no class; valid names: grass, cow, sky"),
        ({"classes": ("cow", "cow")}, "these occur twice: cow"),
        ({"channels": 4}, "dataset.channels is 4, but format 'folder' has 3"),
    ],
)
def test_contradicting_parameters_are_params_errors(
    folder: Path, config: DatasetConfig, update: dict[str, object], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        open_dataset(config.model_copy(update=update), folder)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the research data {REAL} are not here")
def test_reads_real_photographs(config: DatasetConfig) -> None:
    reader = open_dataset(config, REAL)
    splits = reader.splits()
    assert {name: len(keys) for name, keys in splits.items()} == {"train": 400, "val": 191}
    assert len(reader.classes.names) == 21
    samples = [reader.read("val", key) for key in splits["val"][::10]]
    for sample in samples:
        assert sample.mask is not None
        shown = set(np.unique(sample.mask).tolist()) - {255}
        assert shown <= set(sample.labels), "every class in a mask is among the image's labels"
        assert decode_image(sample.image, sample.extension).shape == (3, sample.height, sample.width)


def test_class_names_of_the_parameters_must_be_those_of_the_file(folder: Path, config: DatasetConfig):
    swapped = config.model_copy(update={"classes": ("cow", "grass", "sky")})
    with pytest.raises(DataError, match=r"classes\.txt and dataset\.classes differ .*Set dataset\.classes to null"):
        open_dataset(swapped, folder)
