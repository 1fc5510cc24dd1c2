from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctm.data.classes import IGNORE
from ctm.data.config import DatasetConfig
from ctm.data.datasets.voc2012 import CLASS_NAMES
from ctm.data.sample import decode_image
from ctm.errors import DataError
from ctm.params import load_preset
from tests.miniatures.samples import keys, opened, read, read_all
from tests.miniatures.voc2012 import (
    AUG_ONLY,
    SCENES,
    TRAIN,
    TRAIN_AUG,
    UNLISTED,
    VAL,
    scene,
    with_void,
    write_list,
    write_mask,
    write_sbd_mask,
    write_voc2012,
)

COW, DOG, PERSON, BOTTLE = (CLASS_NAMES.index(name) for name in ("cow", "dog", "person", "bottle"))


def voc(**options: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"format": "voc2012", "root": "raw", "background": "background", **options})


def home(root: Path) -> Path:
    return root / "VOCdevkit" / "VOC2012"


def lists(root: Path) -> Path:
    return home(root) / "ImageSets" / "Segmentation"


def present(name: str) -> tuple[int, ...]:
    return tuple(sorted(CLASS_NAMES.index(one) for one in SCENES[name][1]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The miniature with train_aug.txt and SegmentationClassAug."""
    write_voc2012(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.fixture
def sbd_root(tmp_path: Path) -> Path:
    """The miniature with raw SBD."""
    pytest.importorskip("scipy", reason="writes the .mat files")
    write_voc2012(tmp_path / "raw", aug="sbd")
    return tmp_path / "raw"


def test_trains_on_train_aug_and_has_truth_for_the_devkits_own_lists_alone(root: Path) -> None:
    dataset = opened(voc(), root)
    assert keys(dataset) == {"train": list(TRAIN_AUG), "val": list(VAL)}, "the last line of val.txt does not end"
    assert (dataset.channels, dataset.scale) == (3, 1 / 255)
    assert (dataset.classes.names, dataset.classes.background) == (CLASS_NAMES, 0)
    assert list(dataset.problems) == []
    assert dataset.left_out == {"images in neither the train nor the val list": 1}
    samples = read_all(voc(), root)
    assert {name for name, sample in samples.items() if sample.mask is not None} == {*TRAIN, *VAL}
    assert {name: sample.labels for name, sample in samples.items()} == {name: present(name) for name in samples}
    assert UNLISTED not in samples


def test_a_palette_mask_is_read_by_index_and_keeps_its_void(root: Path) -> None:
    name = TRAIN[0]
    path = home(root) / "SegmentationClass" / f"{name}.png"
    with Image.open(path) as image:
        assert image.mode == "P"
    sample = read(voc(), root, "train", name)
    np.testing.assert_array_equal(sample.mask, with_void(scene(*SCENES[name], seed=32)[1]))
    assert sample.mask is not None
    assert sorted(np.unique(sample.mask)) == [0, COW, PERSON, IGNORE]


def test_labels_come_from_the_aug_mask_and_truth_does_not(root: Path) -> None:
    name = TRAIN[1]
    mask = np.full(SCENES[name][0], 1, dtype=np.uint8)
    write_mask(home(root) / "SegmentationClassAug" / f"{name}.png", mask)
    sample = read(voc(), root, "train", name)
    assert sample.labels == (1,)
    assert sample.mask is not None
    assert sorted(np.unique(sample.mask)) == [0, DOG, IGNORE]


def test_an_image_of_train_aug_alone_has_no_truth_even_if_its_mask_lies_among_the_devkits(root: Path) -> None:
    name = AUG_ONLY[0]
    aug = home(root) / "SegmentationClassAug" / f"{name}.png"
    shutil.move(aug, home(root) / "SegmentationClass" / f"{name}.png")
    sample = read(voc(), root, "train", name)
    assert sample.mask is None
    assert sample.labels == present(name)


def test_small_objects_are_no_labels_below_the_least_fraction(root: Path) -> None:
    name = VAL[0]
    mask = np.zeros(SCENES[name][0], dtype=np.uint8)
    mask[0, :2] = DOG
    mask[1:9] = COW
    write_mask(home(root) / "SegmentationClass" / f"{name}.png", mask)
    assert read(voc(), root, "val", name).labels == (COW, DOG)
    assert read(voc(min_label_fraction=0.01), root, "val", name).labels == (COW,)


def test_annotations_give_difficult_objects_too_and_no_parts(root: Path) -> None:
    config = voc(labels_from="annotations")
    assert read(config, root, "train", TRAIN[0]).labels == (BOTTLE, COW, PERSON)
    assert read(voc(), root, "train", TRAIN[0]).labels == (COW, PERSON), "the bottle is in no mask"
    assert "<part><name>head</name>" in (home(root) / "Annotations" / f"{TRAIN[0]}.xml").read_text()
    samples = read_all(config, root)
    assert {name for name, sample in samples.items() if sample.mask is not None} == {*TRAIN, *VAL}
    assert samples[AUG_ONLY[1]].labels == present(AUG_ONLY[1])


def test_annotations_need_no_masks_at_all(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        shutil.rmtree(home(root) / folder)
    samples = read_all(voc(labels_from="annotations"), root)
    assert len(samples) == len(TRAIN_AUG) + len(VAL)
    assert all(sample.mask is None for sample in samples.values())
    assert "SegmentationClass has no masks: there is no truth to score by" in caplog.text


def test_renamed_classes_still_find_the_names_of_the_annotations(root: Path) -> None:
    names = ("nothing", *(name.upper() for name in CLASS_NAMES[1:]))
    config = voc(classes=names, background="nothing", labels_from="annotations")
    assert opened(config, root).classes.names == names
    assert read(config, root, "train", TRAIN[1]).labels == (DOG,)


def test_the_other_name_and_the_other_spelling_of_the_train_aug_list_are_read(root: Path) -> None:
    (lists(root) / "train_aug.txt").unlink()
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in reversed(TRAIN_AUG)]
    write_list(lists(root) / "trainaug.txt", lines, final_newline=False)
    assert keys(opened(voc(), root))["train"] == list(reversed(TRAIN_AUG)), "in the order of the list"
    assert keys(opened(voc(train_list="train_aug"), root))["train"] == list(reversed(TRAIN_AUG))


def test_train_alone_needs_nothing_of_sbd(tmp_path: Path) -> None:
    write_voc2012(tmp_path, aug=None)
    config = voc(train_list="train")
    dataset = opened(config, tmp_path)
    assert keys(dataset) == {"train": list(TRAIN), "val": list(VAL)}
    assert dataset.left_out == {"images in neither the train nor the val list": len(AUG_ONLY) + 1}
    samples = read_all(config, tmp_path)
    assert all(sample.mask is not None and sample.labels == present(name) for name, sample in samples.items())


def test_without_a_list_and_without_sbd_the_message_says_what_was_looked_for(tmp_path: Path) -> None:
    write_voc2012(tmp_path, aug=None)
    with pytest.raises(DataError) as error:
        opened(voc(), tmp_path)
    for words in ("train_aug.txt or trainaug.txt", "VOCaug/dataset", "`--set dataset.train_list=train`", str(tmp_path)):
        assert words in str(error.value)


def test_raw_sbd_gives_the_list_and_the_labels(sbd_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = opened(voc(), sbd_root)
    assert keys(dataset) == {"train": sorted(TRAIN_AUG), "val": list(VAL)}, "VOC's val images of SBD are left out"
    assert "has 7 images; the usual one has 10,582" in caplog.text
    assert list(dataset.problems) == []


def test_labels_prefer_sbd_to_the_devkit_and_the_aug_mask_to_both(sbd_root: Path) -> None:
    name = TRAIN[1]
    ones = np.ones(SCENES[name][0], dtype=np.uint8)
    write_sbd_mask(sbd_root / "VOCdevkit" / "VOCaug" / "dataset" / "cls" / f"{name}.mat", ones)
    assert read(voc(), sbd_root, "train", name).labels == (1,)
    write_mask(home(sbd_root) / "SegmentationClassAug" / f"{name}.png", 2 * ones)
    assert read(voc(), sbd_root, "train", name).labels == (2,)


@pytest.mark.parametrize("place", ["benchmark_RELEASE/dataset", "VOCdevkit/VOC2012/sbd", "elsewhere/deep/down"])
def test_raw_sbd_is_found_under_any_name(sbd_root: Path, place: str) -> None:
    (sbd_root / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(sbd_root / "VOCdevkit" / "VOCaug" / "dataset", sbd_root / place)
    assert keys(opened(voc(), sbd_root))["train"] == sorted(TRAIN_AUG)


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_may_be_the_devkit_or_a_folder_above_it(root: Path, below: str) -> None:
    assert keys(opened(voc(), root / below)) == {"train": list(TRAIN_AUG), "val": list(VAL)}
    assert read(voc(), root / below, "val", VAL[0]).labels == present(VAL[0])


def test_another_year_beside_it_is_not_read(root: Path) -> None:
    for name in ("train", "val", "train_aug"):
        write_list(root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Segmentation" / f"{name}.txt", ["000001"])
    assert keys(opened(voc(), root)) == {"train": list(TRAIN_AUG), "val": list(VAL)}


@pytest.mark.parametrize("train_list", ["train_aug", "train"])
def test_an_image_of_train_and_val_is_refused(root: Path, train_list: str) -> None:
    write_list(lists(root) / "train.txt", [*TRAIN, VAL[1]])
    write_list(lists(root) / "train_aug.txt", [*TRAIN_AUG, VAL[1]])
    with pytest.raises(DataError, match=rf"1 images are in the train list and in val.txt, such as '{VAL[1]}'"):
        opened(voc(train_list=train_list), root)


def test_the_preset_reads_it(root: Path) -> None:
    config = load_preset("voc2012").dataset
    assert config.classes == CLASS_NAMES
    samples = read_all(config, root)
    assert {decode_image(sample.image, sample.extension).shape[0] for sample in samples.values()} == {3}
