from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctm.data.classes import IGNORE
from ctm.data.config import DatasetConfig
from ctm.data.datasets.ade20k import CLASS_NAMES, OTHER
from ctm.data.sample import decode_image
from ctm.errors import DataError, ParamsError
from ctm.params import load_preset
from tests.miniatures.ade20k import CMYK, GREYSCALE, SCENES, scene, write_ade20k, write_annotation, write_info
from tests.miniatures.samples import keys, opened, read, read_all

TRAIN = [name for name in SCENES if "train" in name]
VAL = [name for name in SCENES if "val" in name]


def ade(zero_label: str | None = "class", **options: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"format": "ade20k", "root": "raw", "zero_label": zero_label, **options})


def home(root: Path) -> Path:
    return root / "ADEChallengeData2016"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The miniature."""
    write_ade20k(tmp_path / "raw")
    return tmp_path / "raw"


def test_every_image_with_its_annotation_is_a_sample(root: Path) -> None:
    dataset = opened(ade(), root)
    assert keys(dataset) == {"train": TRAIN, "val": VAL}
    assert (dataset.channels, dataset.scale) == (3, 1 / 255)
    assert list(dataset.problems) == []
    assert dataset.left_out == {}
    for name, sample in read_all(ade(), root).items():
        folder = "training" if name in TRAIN else "validation"
        assert sample.image == (home(root) / "images" / folder / f"{name}.jpg").read_bytes()
        assert (sample.extension, (sample.height, sample.width)) == ("jpg", SCENES[name][0])


def test_zero_as_a_class_leaves_the_values_as_they_are(root: Path) -> None:
    dataset = opened(ade("class"), root)
    assert dataset.classes.names == (OTHER, *CLASS_NAMES)
    assert dataset.classes.background is None
    for name, sample in read_all(ade("class"), root).items():
        np.testing.assert_array_equal(sample.mask, scene(*SCENES[name], seed=int(name[-4:]))[1])
        assert sample.labels == tuple(sorted(SCENES[name][1])), "150 and 0 are labels as all others"
    assert dataset.classes.names[150] == "flag"


def test_zero_ignored_counts_the_classes_from_wall(root: Path) -> None:
    dataset = opened(ade("ignore"), root)
    assert dataset.classes.names == CLASS_NAMES
    for name, sample in read_all(ade("ignore"), root).items():
        stored = scene(*SCENES[name], seed=int(name[-4:]))[1].astype(int)
        assert sample.mask is not None
        assert sample.mask.dtype == np.uint8
        np.testing.assert_array_equal(sample.mask, np.where(stored == 0, IGNORE, stored - 1))
        assert sample.labels == tuple(sorted(value - 1 for value in SCENES[name][1] if value))
    assert dataset.classes.names[149] == "flag"


def test_what_zero_means_must_be_said(root: Path) -> None:
    with pytest.raises(ParamsError) as error:
        opened(ade(None), root)
    for words in (
        "`--set dataset.zero_label=class`",
        "151 classes",
        "`--set dataset.zero_label=ignore`",
        "150 classes",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize(("zero_label", "names"), [("ignore", (OTHER, *CLASS_NAMES)), ("class", CLASS_NAMES)])
def test_names_for_the_other_convention_are_refused(root: Path, zero_label: str, names: tuple[str, ...]) -> None:
    with pytest.raises(ParamsError, match=rf"has {len(names)} names.*`--set dataset\.classes=null`"):
        opened(ade(zero_label, classes=names), root)


def test_other_objects_may_be_the_background(root: Path) -> None:
    config = ade("class", background=OTHER)
    assert opened(config, root).classes.background == 0
    assert read(config, root, "train", "ADE_train_00000003").labels == (3,)


def test_small_regions_are_no_labels_below_the_least_fraction(root: Path) -> None:
    mask = np.full(SCENES[VAL[0]][0], 5, dtype=np.uint8)
    mask[0, :3] = 9
    write_annotation(home(root) / "annotations" / "validation" / f"{VAL[0]}.png", mask)
    assert read(ade(), root, "val", VAL[0]).labels == (5, 9)
    assert read(ade(min_label_fraction=0.01), root, "val", VAL[0]).labels == (5,)


def test_greyscale_and_cmyk_photographs_are_decoded_as_rgb(root: Path) -> None:
    for name, mode in ((GREYSCALE, "L"), (CMYK, "CMYK")):
        sample = read(ade(), root, "train", name)
        with Image.open(home(root) / "images" / "training" / f"{name}.jpg") as image:
            assert image.mode == mode
        assert decode_image(sample.image, sample.extension).shape == (3, *SCENES[name][0])


@pytest.mark.parametrize("zero_label", ["class", "ignore"])
@pytest.mark.parametrize("value", [151, 255])
def test_a_value_above_150_is_refused(root: Path, zero_label: str, value: int) -> None:
    mask = np.full(SCENES[TRAIN[0]][0], 3, dtype=np.uint8)
    mask[0, 0] = value
    path = home(root) / "annotations" / "training" / f"{TRAIN[0]}.png"
    write_annotation(path, mask)
    with pytest.raises(DataError, match=rf"^{path}: mask values \[{value}\] are no class.*not renumbered"):
        read(ade(zero_label), root, "train", TRAIN[0])


def test_a_palette_annotation_is_read_by_index(root: Path) -> None:
    path = home(root) / "annotations" / "training" / f"{TRAIN[0]}.png"
    with Image.open(path) as image:
        stored = np.asarray(image)
        image.putpalette([255 - k // 3 for k in range(768)])
        image.save(path)
    with Image.open(path) as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(read(ade(), root, "train", TRAIN[0]).mask, stored)


@pytest.mark.parametrize("below", ["", "ADEChallengeData2016"])
def test_the_root_may_be_the_folder_itself_or_above_it(root: Path, below: str) -> None:
    assert keys(opened(ade(), root / below)) == {"train": TRAIN, "val": VAL}


def test_a_folder_nested_twice_and_another_edition_beside_it_are_no_trouble(root: Path) -> None:
    (root / "down").mkdir()
    shutil.move(home(root), root / "down" / "ADEChallengeData2016")
    full = root / "ADE20K_2016_07_26" / "images" / "training" / "a" / "abbey"
    full.mkdir(parents=True)
    (full / "ADE_train_00000970.jpg").write_bytes(b"")
    assert keys(opened(ade(), root)) == {"train": TRAIN, "val": VAL}


def test_the_full_set_sorted_by_scenes_is_told_apart(root: Path) -> None:
    folder = home(root) / "images" / "training"
    (folder / "a").mkdir()
    for path in folder.glob("*.jpg"):
        path.rename(folder / "a" / path.name)
    with pytest.raises(DataError, match="the full ADE20K, sorted by scenes, is another data set"):
        opened(ade(), root)


def test_a_table_of_other_classes_is_refused(root: Path) -> None:
    write_info(home(root) / "objectInfo150.txt", 100)
    with pytest.raises(DataError, match=r"objectInfo150\.txt has 100 classes, expected 150"):
        opened(ade(), root)
    (home(root) / "objectInfo150.txt").unlink()
    assert keys(opened(ade(), root))["train"] == TRAIN, "the table may be missing"


def test_the_table_may_be_separated_by_commas_as_in_the_development_kit(root: Path) -> None:
    rows = [f"{k},0.01,100,10,0,{name}\r\n" for k, name in enumerate(CLASS_NAMES, start=1)]
    (home(root) / "objectInfo150.txt").write_text("Idx,Ratio,Train,Val,Stuff,Name\r\n" + "".join(rows))
    assert keys(opened(ade(), root))["train"] == TRAIN


def test_the_preset_takes_zero_as_a_class_and_names_the_same_classes(root: Path) -> None:
    config = load_preset("ade20k").dataset
    assert config.zero_label == "class"
    assert config.classes == (OTHER, *CLASS_NAMES)
    assert len(CLASS_NAMES) == 150
    assert len(read_all(config, root)) == len(SCENES)
