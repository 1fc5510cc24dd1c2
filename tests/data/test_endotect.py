"""HyperKvasir: spellings of its folders, labels from folders, official splits, polyp masks, and errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctm.data.config import DatasetConfig
from ctm.data.datasets.endotect import CLASS_NAMES, FINDINGS, OFFICIAL_NAMES
from ctm.errors import DataError
from ctm.params import load_preset
from tests.miniatures.endotect import EMPTY_MASK, FOLDERS, WITHOUT_MASK, name, polyp, write_endotect, write_mask
from tests.miniatures.samples import keys, opened, read_all

CONFIG = DatasetConfig(format="endotect", root="raw", background="background")
LOWER = CONFIG.model_copy(update={"classes": ("background", *FINDINGS[:16])})
BACKGROUND, POLYPS = 0, CLASS_NAMES.index("polyps")
UPPER_IMAGES = sum(count for tract, _, count in FOLDERS.values() if tract == "upper")
IMAGES = sum(count for _, _, count in FOLDERS.values())
LABELS = "labeled-images/image-labels.csv"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_endotect(tmp_path / "raw")
    return tmp_path / "raw"


def image_path(finding: str, number: int) -> str:
    tract, category, _ = FOLDERS[finding]
    return f"labeled-images/{tract}-gi-tract/{category}/{finding}/{name(finding, number)}.jpg"


def all_keys(config: DatasetConfig, root: Path) -> set[str]:
    return {key for split in keys(opened(config, root)).values() for key in split}


def replaced(path: Path, old: str, new: str) -> None:
    """Replaces text that is there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_preset_s_classes_are_the_reader_s() -> None:
    assert load_preset("endotect").dataset.classes == CLASS_NAMES
    assert len(FINDINGS) == 23
    assert set(OFFICIAL_NAMES.values()) < set(FINDINGS)
    assert not set(OFFICIAL_NAMES) & set(FINDINGS)


# Labels.


def test_the_folder_is_the_label(root: Path) -> None:
    dataset = opened(CONFIG, root)
    assert (dataset.classes.names, dataset.classes.background) == (CLASS_NAMES, BACKGROUND)
    assert (dataset.channels, dataset.scale) == (3, 1 / 255)
    assert dataset.problems == ()
    samples = read_all(CONFIG, root)
    assert len(samples) == IMAGES
    for finding, (_, _, count) in FOLDERS.items():
        for number in range(count):
            assert samples[name(finding, number)].labels == (CLASS_NAMES.index(finding),)
    stored = samples[name("cecum", 0)]
    assert stored.image == (root / image_path("cecum", 0)).read_bytes()
    assert (stored.extension, stored.height, stored.width) == ("jpg", 33, 45)


@pytest.mark.parametrize(
    ("labelled", "segmented"),
    [
        ("labeled-images", "segmented-images"),
        ("hyper_kvasir_labeled_images", "hyper_kvasir_segmented_images"),
        ("hyper-kvasir/labeled-images", "hyper-kvasir/segmented-images"),
        ("hyper-kvasir-labeled-images/labeled-images", "hyper-kvasir-segmented-images/segmented-images"),
        (".", "Segmented_Images"),
    ],
)
def test_all_spellings_of_the_folders_give_the_same_samples(tmp_path: Path, labelled: str, segmented: str) -> None:
    write_endotect(tmp_path / "usual")
    write_endotect(tmp_path / "raw", labelled=labelled, segmented=segmented)
    usual, raw = read_all(CONFIG, tmp_path / "usual"), read_all(CONFIG, tmp_path / "raw")
    assert usual.keys() == raw.keys()
    assert {key for key, sample in raw.items() if sample.mask is not None} == {
        name("polyps", number) for number in range(8) if number != WITHOUT_MASK
    }
    assert not opened(CONFIG, tmp_path / "raw").problems


def test_findings_that_are_no_class_are_left_out_by_count(root: Path) -> None:
    dataset = opened(LOWER, root)
    assert dataset.left_out["images of findings that dataset.classes does not name"] == UPPER_IMAGES
    assert not dataset.problems
    assert len(all_keys(LOWER, root)) == IMAGES - UPPER_IMAGES


def test_mask_values_follow_the_configured_order(root: Path) -> None:
    config = CONFIG.model_copy(update={"classes": ("cecum", "polyps", "other"), "background": "other"})
    samples = read_all(config, root)
    assert samples[name("cecum", 1)].labels == (0,)
    assert samples[name("polyps", 1)].labels == (1,)
    assert np.unique(samples[name("polyps", 1)].mask).tolist() == [1, 2]


@pytest.mark.parametrize("other", ["Hemorrhoids (2)", "background"])
def test_a_folder_that_is_no_finding_is_a_problem_of_each_of_its_images(root: Path, other: str) -> None:
    folder = root / "labeled-images" / "lower-gi-tract" / "pathological-findings"
    (folder / "hemorrhoids").rename(folder / other)
    dataset = opened(CONFIG, root)
    assert len(dataset.problems) == 2
    assert all(problem.path.endswith(".jpg") for problem in dataset.problems)
    assert "its folder is no finding of HyperKvasir; valid names: cecum, ileum" in dataset.problems[0].message
    assert len(all_keys(CONFIG, root)) == IMAGES - 2
    assert "images of findings that dataset.classes does not name" not in dataset.left_out


def test_unlabelled_and_segmented_images_are_no_samples(root: Path) -> None:
    assert not {name("unlabelled", 0), name("polyps", 90)} & all_keys(CONFIG, root)


# The table of labels.


def test_the_table_of_labels_may_be_missing(root: Path) -> None:
    (root / LABELS).unlink()
    assert len(all_keys(CONFIG, root)) == IMAGES


def test_without_the_table_of_labels_a_split_s_row_without_a_file_is_a_problem(root: Path) -> None:
    (root / LABELS).unlink()
    (root / image_path("cecum", 0)).unlink()
    (problem,) = opened(CONFIG.model_copy(update={"folds": 2}), root).problems
    assert problem.path == "official_splits/2_fold_split.csv"
    assert f"no image {name('cecum', 0)}.jpg; add the file" in problem.message
    assert not opened(CONFIG, root).problems


def test_rows_of_findings_that_are_left_out_need_no_file(root: Path) -> None:
    shutil.rmtree(root / "labeled-images" / "upper-gi-tract")
    assert not opened(LOWER, root).problems
    assert len(opened(CONFIG, root).problems) == UPPER_IMAGES


# Splits.


def test_without_folds_a_hash_of_the_name_decides(root: Path) -> None:
    before = keys(opened(CONFIG, root))
    assert min(len(split) for split in before.values()) >= 3
    assert before == {split: sorted(found) for split, found in before.items()}
    (root / image_path("cecum", 0)).unlink()
    (root / LABELS).unlink()
    after = keys(opened(CONFIG, root))
    assert after == {split: [key for key in found if key != name("cecum", 0)] for split, found in before.items()}


@pytest.mark.parametrize("folds", [2, 5])
def test_fold_0_of_an_official_split_is_val(root: Path, folds: int) -> None:
    rows = (root / "official_splits" / f"{folds}_fold_split.csv").read_text().splitlines()[1:]
    wanted = {row.split(";")[0].removesuffix(".jpg") for row in rows if row.endswith(";0")}
    dataset = opened(CONFIG.model_copy(update={"folds": folds}), root)
    assert set(keys(dataset)["val"]) == wanted
    assert len(keys(dataset)["train"]) == IMAGES - len(wanted)
    assert not dataset.problems, "its own names of findings are understood"


def test_file_names_of_a_split_may_lack_the_suffix(root: Path) -> None:
    config = CONFIG.model_copy(update={"folds": 2})
    before = keys(opened(config, root))
    replaced(root / "official_splits" / "2_fold_split.csv", ".jpg;", ";")
    assert keys(opened(config, root)) == before


def test_a_missing_or_wrong_split_is_refused(root: Path) -> None:
    path = root / "official_splits" / "5_fold_split.csv"
    config = CONFIG.model_copy(update={"folds": 5})
    replaced(path, f"{name('polyps', 0)}.jpg;polyp;0", f"{name('polyps', 0)}.jpg;polyp;5")
    with pytest.raises(DataError, match=r"5_fold_split\.csv line 2: split-index is '5', expected 0 to 4"):
        opened(config, root)
    assert not opened(CONFIG, root).problems, "unused tables are not looked at"
    path.unlink()
    with pytest.raises(DataError, match=r"holds no official_splits/5_fold_split.csv; .* set dataset.folds to null"):
        opened(config, root)


# Truth.


def test_only_polyps_with_a_mask_have_truth(root: Path) -> None:
    samples = read_all(CONFIG, root)
    masked = {key for key, sample in samples.items() if sample.mask is not None}
    assert masked == {name("polyps", number) for number in range(8) if number != WITHOUT_MASK}
    note = "a polyp without a mask, so without truth"
    assert [key for key, sample in samples.items() if note in sample.notes] == [name("polyps", WITHOUT_MASK)]


def test_noisy_jpeg_masks_become_polyp_and_background(root: Path) -> None:
    with Image.open(root / "segmented-images" / "masks" / f"{name('polyps', 2)}.jpg") as image:
        values = np.unique(np.array(image))
    assert len(values) > 2, "the mask on disk is noisy"
    sample = read_all(CONFIG, root)[name("polyps", 2)]
    assert sample.mask is not None
    assert sample.mask.dtype == np.uint8
    assert np.unique(sample.mask).tolist() == [BACKGROUND, POLYPS]
    assert ((sample.mask == POLYPS) == polyp(2)).mean() > 0.99


def test_an_empty_mask_is_truth_and_no_mask_is_none(root: Path) -> None:
    samples = read_all(CONFIG, root)
    empty = samples[name("polyps", EMPTY_MASK)]
    assert empty.mask is not None
    assert (empty.mask == BACKGROUND).all()
    assert empty.labels == (POLYPS,)
    assert samples[name("polyps", WITHOUT_MASK)].mask is None


def test_white_is_above_127(root: Path) -> None:
    path = root / "segmented-images" / "masks" / f"{name('polyps', 0)}.jpg"
    for grey, value in ((127, BACKGROUND), (128, POLYPS)):
        Image.new("L", (45, 33), grey).save(path, quality=100)
        mask = read_all(CONFIG, root)[name("polyps", 0)].mask
        assert mask is not None
        assert (mask == value).all()


def test_segmented_images_that_are_no_labelled_polyp_are_left_out(root: Path) -> None:
    masks = root / "segmented-images" / "masks"
    write_mask(masks / f"{name('cecum', 0)}.jpg", np.ones((33, 45), dtype=bool))
    assert opened(CONFIG, root).left_out["segmented images that are no labelled polyp"] == 2
    assert read_all(CONFIG, root)[name("cecum", 0)].mask is None, "polyps alone have masks"


def test_without_a_class_for_polyps_masks_are_not_read(root: Path) -> None:
    config = CONFIG.model_copy(update={"classes": ("background", "cecum", "bbps-0-1")})
    for path in (root / "segmented-images" / "masks").iterdir():
        path.write_bytes(b"")
    dataset = opened(config, root)
    assert not any("mask" in entry.files for entries in dataset.splits.values() for entry in entries)
    assert "segmented images that are no labelled polyp" not in dataset.left_out
    assert all(sample.mask is None and not sample.notes for sample in read_all(config, root).values())


def test_without_segmented_images_nothing_has_truth(root: Path) -> None:
    shutil.rmtree(root / "segmented-images")
    assert not opened(CONFIG, root).problems
    assert all(sample.mask is None for sample in read_all(CONFIG, root).values())


# Parameters.
