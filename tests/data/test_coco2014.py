"""COCO 2014: its layouts, the truth painted from the instances JSON, both encodings of masks, and errors."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctm.data.config import DatasetConfig
from ctm.data.datasets import coco_masks
from ctm.data.datasets.coco2014 import open_coco2014
from ctm.data.datasets.coco_classes import CATEGORY_IDS, CLASS_NAMES
from ctm.errors import DataError
from ctm.params import load_preset
from ctm.runtime.storage import open_tree
from tests.miniatures.coco2014 import (
    CAR,
    REFRIGERATOR,
    REMOTE,
    SCENES,
    STOP_SIGN,
    TOOTHBRUSH,
    contiguous,
    instances,
    stem,
    write_coco2014,
    write_instances,
    write_mask,
)
from tests.miniatures.samples import keys, opened, read, read_all

JSON = DatasetConfig(format="coco2014", root="raw", background="background")
MASKS = JSON.model_copy(update={"labels_from": "masks"})
ANNOTATED = {
    split: [stem(split, number) for number, scene in scenes.items() if scene.things] for split, scenes in SCENES.items()
}
N9, N42 = stem("train", 9), stem("val", 42)
pytestmark = pytest.mark.filterwarnings("error")  # pycocotools gives warnings that are nothing to the user
ENCODINGS = pytest.mark.parametrize("encoding", ["contiguous", "category_id"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The miniature with the instances JSON."""
    write_coco2014(tmp_path / "raw")
    return tmp_path / "raw"


def masked(tmp_path: Path, encoding: Any = "contiguous") -> Path:
    """The miniature with masks instead of the JSON."""
    write_coco2014(tmp_path / "raw", annotations=False, masks=encoding)
    return tmp_path / "raw"


def changed(root: Path, split: str, change: Callable[[Any], Any]) -> Path:
    """Writes the JSON of a split anew, after a change."""
    content = instances(split)
    return write_instances(root, split, change(content) or content)


def change_annotation(root: Path, number: int, **fields: Any) -> None:
    """Changes fields of an annotation of the train split."""

    def change(content: Any) -> None:
        next(item for item in content["annotations"] if item["id"] == number).update(fields)

    changed(root, "train", change)


def scene_mask(key: str) -> np.ndarray:
    """The mask values that the scene of a key has."""
    _, split, number = key.split("_")
    return contiguous(SCENES[split.removesuffix("2014")][int(number)].mask())


def test_the_preset_and_the_ids_are_coco_s() -> None:
    assert load_preset("coco2014").dataset.classes == CLASS_NAMES
    assert (len(CLASS_NAMES), len(CATEGORY_IDS), CATEGORY_IDS[-1]) == (81, 80, 90)
    names = {number: CLASS_NAMES[value] for value, number in enumerate(CATEGORY_IDS, start=1)}
    assert [names[number] for number in (1, 13, 44, 65, 67, 82, 90)] == [
        "person",
        "stop sign",
        "bottle",
        "bed",
        "dining table",
        "refrigerator",
        "toothbrush",
    ]


# Layouts and what is in which split.


def test_images_without_annotation_are_left_out_and_counted(root: Path) -> None:
    dataset = opened(JSON, root)
    assert keys(dataset) == ANNOTATED
    assert dataset.left_out == {"train images without annotation": 1, "val images without annotation": 1}
    assert dataset.problems == ()
    assert (dataset.classes.names, dataset.classes.background) == (CLASS_NAMES, 0)
    assert (dataset.channels, dataset.scale) == (3, 1 / 255)


@pytest.mark.parametrize("nested", ["", "coco", "a/coco2014"])
@pytest.mark.parametrize("images", ["{split}2014", "JPEGImages/{split}2014", "JPEGImages/{split}"])
def test_all_layouts_give_the_same_samples(tmp_path: Path, images: str, nested: str) -> None:
    root = tmp_path / "raw"
    write_coco2014(root / nested, images=images, masks="contiguous")
    dataset = opened(JSON, root)
    assert keys(dataset) == keys(opened(MASKS, root)) == ANNOTATED
    assert not dataset.problems
    assert read(JSON, root, "train", N9).mask is not None


def test_annotations_may_lie_apart_from_the_images(root: Path) -> None:
    (root / "annotations_trainval2014").mkdir()
    shutil.move(root / "annotations", root / "annotations_trainval2014")
    assert keys(opened(JSON, root)) == ANNOTATED


def test_masks_may_lie_in_folders_named_as_the_images(tmp_path: Path) -> None:
    root = masked(tmp_path)
    for split in ("train", "val"):
        (root / "SegmentationClass" / f"{split}2014").rename(root / "SegmentationClass" / split)
    assert keys(opened(MASKS, root)) == ANNOTATED


def test_an_image_without_annotation_needs_no_file(root: Path) -> None:
    (root / "train2014" / f"{stem('train', 36)}.jpg").unlink()
    assert not opened(JSON, root).problems


def test_jpegs_that_the_json_does_not_list_are_left_out(root: Path) -> None:
    shutil.copy(root / "val2014" / f"{N42}.jpg", root / "val2014" / "COCO_val2014_000000000001.jpg")
    dataset = opened(JSON, root)
    assert keys(dataset) == ANNOTATED
    assert dataset.left_out["val JPEGs that are not in the instances JSON"] == 1


# The truth painted from the JSON.


def test_truth_is_the_smallest_object_at_each_pixel(root: Path) -> None:
    samples = read_all(JSON, root)
    for key, sample in samples.items():
        assert sample.mask is not None
        np.testing.assert_array_equal(sample.mask, scene_mask(key), err_msg=key)
        assert sample.mask.dtype == np.uint8
        assert sample.mask.shape == (sample.height, sample.width)
    assert sorted(np.unique(samples[N42].mask).tolist()) == [0, 1, 80], "category 90 is mask value 80"


def test_labels_are_the_categories_of_all_annotations(root: Path) -> None:
    def hide(content: Any) -> None:
        # An object that smaller ones hide, and a crowd: both are labels though the truth shows one of them only.
        content["annotations"].append({**content["annotations"][0], "id": 1, "category_id": CAR, "area": 99999.0})

    changed(root, "train", hide)
    sample = read(JSON, root, "train", N9)
    assert sample.labels == (1, 3, 17)
    assert sample.mask is not None
    assert 3 not in sample.mask
    assert read(JSON, root, "train", stem("train", 30)).labels == (1, 3)


def test_of_equal_objects_the_first_is_kept(root: Path) -> None:
    person, dog = instances("train")["annotations"][:2]
    change_annotation(root, dog["id"], segmentation=person["segmentation"], area=int(person["area"]))
    mask = read(JSON, root, "train", N9).mask
    assert mask is not None
    assert sorted(np.unique(mask).tolist()) == [0, 1]


def test_a_crowd_s_run_lengths_may_be_compressed_text(root: Path) -> None:
    from pycocotools.mask import encode

    rng = np.random.default_rng(3)
    covered = np.asfortranarray(rng.random((33, 40)) < np.linspace(0.02, 0.98, 40))
    change_annotation(
        root, 901, segmentation={"size": [33, 40], "counts": encode(covered.view(np.uint8))["counts"].decode()}
    )
    mask = read(JSON, root, "train", N9).mask
    assert mask is not None
    np.testing.assert_array_equal(mask == 17, covered)


def test_polygons_may_leave_the_image(root: Path) -> None:
    change_annotation(root, 901, segmentation=[[-5.5, 30, 50.25, 30, 50.25, 60, -5.5, 60]])
    mask = read(JSON, root, "train", N9).mask
    assert mask is not None
    np.testing.assert_array_equal(mask == 17, np.repeat(np.arange(33) >= 30, 40).reshape(33, 40))


SEGMENTATIONS = {
    "box": ([[4, 4, 9, 9]], "a polygon has 4 numbers, expected x, y of three points or more"),
    "odd": ([[4, 4, 9, 9, 4, 9, 1]], "a polygon has 7 numbers"),
    "one short of two": ([[1, 1, 9, 1, 9, 9], [2, 2]], "a polygon has 2 numbers"),
    "flat": ([1, 1, 9, 1, 9, 9], "a polygon has no numbers"),
    "text": ([[1, 1, 9, 1, 9, "9"]], "a polygon holds something else than numbers"),
    "null": ([[1, 1, 9, 1, 9, None]], "a polygon holds something else than numbers"),
    "deep": ([[[1, 1], [9, 1], [9, 9], [1, 9], [1, 1], [1, 1]]], "a polygon holds something else than numbers"),
    "far": ([[1, 1, 9, 1, 9, 1e9]], "points far outside of the image of 40x33 pixels"),
    "huge": ([[1, 1, 9, 1, 9, 10**30]], "a polygon"),
    "empty": ([], "neither a list of polygons nor a run-length encoding"),
    "missing": (None, "neither a list of polygons nor a run-length encoding"),
    "short runs": ({"size": [33, 40], "counts": [10, 20]}, "add up to the image's 1320 pixels"),
    "long runs": ({"size": [33, 40], "counts": [10, 20, 5000]}, "add up to the image's 1320 pixels"),
    "no runs": ({"size": [33, 40], "counts": []}, "add up to the image's 1320 pixels"),
    "negative runs": ({"size": [33, 40], "counts": [-10, 1330]}, "must be whole numbers"),
    "broken runs": ({"size": [33, 40], "counts": [10.5, 1309.5]}, "must be whole numbers"),
    "worded runs": ({"size": [33, 40], "counts": ["10", 1310]}, "a run-length encoding holds something else than"),
    "other size": ({"size": [40, 33], "counts": [1320]}, r"needs the image's size \[33, 40\]"),
    "no counts": ({"size": [33, 40]}, "has no counts"),
    "runs beyond 64 bits": ({"size": [33, 40], "counts": [1 << 62] * 4 + [1320]}, "must be whole numbers"),
    "bad text": ({"size": [33, 40], "counts": "a b"}, "damaged, or not those of 1320 pixels"),
    "foreign text": ({"size": [33, 40], "counts": "0\u20ac"}, "damaged, or not those of 1320 pixels"),
    "endless text": ({"size": [33, 40], "counts": "o" * 50}, "damaged, or not those of 1320 pixels"),
    "cut text": ({"size": [33, 40], "counts": "04o"}, "damaged, or not those of 1320 pixels"),
    "short text": ({"size": [33, 40], "counts": "04"}, "damaged, or not those of 1320 pixels"),
    "long text": ({"size": [33, 40], "counts": "0XZ1XZ1"}, "damaged, or not those of 1320 pixels"),
    "empty text": ({"size": [33, 40], "counts": ""}, "damaged, or not those of 1320 pixels"),
}


@pytest.mark.parametrize("case", SEGMENTATIONS)
def test_a_malformed_segmentation_names_image_and_annotation(root: Path, case: str) -> None:
    segmentation, message = SEGMENTATIONS[case]
    change_annotation(root, 901, segmentation=segmentation)
    with pytest.raises(DataError, match=message) as error:
        read(JSON, root, "train", N9)
    assert str(error.value).startswith(f"{root}/train2014/{N9}.jpg: annotation 901: ")
    assert read(JSON, root, "train", stem("train", 25)).labels == (17,), "the other samples are as good as before"


@pytest.mark.parametrize("field", ["area", "segmentation"])
def test_an_object_without_area_or_shape_spoils_its_image_alone(root: Path, field: str) -> None:
    def change(content: Any) -> None:
        del content["annotations"][1][field]

    changed(root, "train", change)
    with pytest.raises(DataError, match=f"{N9}.jpg: annotation 901: it"):
        read(JSON, root, "train", N9)
    assert read(JSON, root, "train", stem("train", 25)).labels == (17,)


@pytest.mark.parametrize(
    "text", [b"9" * 5000, b"[" * 900 + b"]" * 900, b'"\xe9"', b'{"size": [33, 40], "counts": "\xe9"}']
)
def test_a_shape_that_python_cannot_read_spoils_its_image_alone(root: Path, text: bytes) -> None:
    change_annotation(root, 901, segmentation="here")
    path = root / "annotations" / "instances_train2014.json"
    path.write_bytes(path.read_bytes().replace(b'"here"', text))
    with pytest.raises(DataError, match=f"{N9}.jpg: .*; mend the instances JSON"):
        read(JSON, root, "train", N9)
    assert read(JSON, root, "train", stem("train", 25)).labels == (17,)


# The JSON as a file.


@pytest.mark.parametrize(
    "write",
    [
        lambda content: json.dumps(content, indent=2).replace("\n", "\r\n").encode(),
        lambda content: b"\xef\xbb\xbf" + json.dumps(content, separators=(",", ":")).encode(),
        lambda content: json.dumps(dict(reversed(content.items()))).encode(),
        lambda content: json.dumps({"x": 1, "info": {"by": "Ω “é”"}, "e": [], **content}, ensure_ascii=False).encode(),
    ],
)
def test_spelling_and_order_of_the_json_do_not_matter(root: Path, write: Callable[[Any], bytes]) -> None:
    (root / "annotations" / "instances_train2014.json").write_bytes(write(instances("train")))
    for key, sample in read_all(JSON, root).items():
        np.testing.assert_array_equal(sample.mask, scene_mask(key))


def test_what_else_the_json_says_need_not_be_utf_8(root: Path) -> None:
    change_annotation(root, 901, caption="caf\u00e9")
    path = root / "annotations" / "instances_train2014.json"
    path.write_bytes(path.read_bytes().replace(b"\\u00e9", b"\xe9"))
    assert read(JSON, root, "train", N9).labels == (1, 17)


def drop(content: Any, section: str, field: str) -> None:
    del content[section][0][field]


CONTENTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no object": (lambda content: content["images"], "is no instances JSON of COCO: Expected `object`, got `array`"),
    "unknown image": (
        lambda content: content["annotations"][0].update(image_id=77),
        "annotations of 1 images that it does not list, such as image 77",
    ),
    "image twice": (lambda content: content["images"].append(content["images"][0]), "image 9 is listed twice"),
    "renamed category": (
        lambda content: content["categories"][0].update(name="human"),
        "its categories are not COCO's 80: category 1 is 'human', expected 'person'",
    ),
    "91 categories": (
        lambda content: content["categories"].append({"id": 12, "name": "street sign"}),
        "category 12 is 'street sign', expected 'no such category'",
    ),
    "ids by rank": (
        lambda content: content.update(
            categories=[{"id": k, "name": name} for k, name in enumerate(CLASS_NAMES[1:], start=1)]
        ),
        "category 12 is 'stop sign', expected 'no such category'",
    ),
    "no categories": (lambda content: content.pop("categories") and None, "missing required field `categories`"),
    "one category less": (
        lambda content: content["categories"].pop(0) and None,
        "category 1 is 'missing', expected 'person'",
    ),
    "unused category": (
        lambda content: content["annotations"][1].update(category_id=12),
        "annotation 901 has category 12, which is none of COCO's 80",
    ),
    "no size": (
        lambda content: drop(content, "images", "height"),
        r"missing required field `height` - at `\$.images\[",
    ),
    "no image id": (lambda content: drop(content, "annotations", "image_id"), "missing required field `image_id`"),
    "other annotations": (lambda content: content.update(annotations=[3]), "Expected `object`, got `int`"),
    "captions": (lambda content: content.update(annotations="none"), "Expected `array`, got `str`"),
    "area in words": (lambda content: content["annotations"][0].update(area="12"), "Expected `float.*got `str`"),
    "infinite area": (lambda content: content["annotations"][0].update(area=10**999), "out of range"),
    "NaN": (lambda content: content["annotations"][0].update(area=float("nan")), "is no valid JSON .*invalid char"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_json_that_is_not_coco_s_is_refused(root: Path, case: str) -> None:
    change, message = CONTENTS[case]
    path = changed(root, "train", change)
    with pytest.raises(DataError, match=message) as error:
        opened(JSON, root)
    assert str(error.value).startswith(str(path))


def test_an_image_name_that_occurs_twice_is_refused(root: Path) -> None:
    def change(content: Any) -> None:
        content["images"][1]["file_name"] = f"train2014/{N9}.jpg"

    changed(root, "train", change)
    with pytest.raises(DataError, match=f"1 images occur twice, such as '{N9}'"):
        opened(JSON, root)


@pytest.mark.parametrize(
    "data",
    [
        *(json.dumps(instances("val")).encode()[:size] for size in (0, 1, 100, 1000, 5000, -1)),
        *(b"\x00" * 50, b"{" + b"[" * 50, b'{"a": ' + b"[" * 99999, b'{"a": ' + b"1" * 9999),
    ],
    ids=lambda data: f"{data[:3]!r} of {len(data)} bytes",
)
def test_a_json_that_was_cut_off_or_is_none_is_refused(root: Path, data: bytes) -> None:
    (root / "annotations" / "instances_val2014.json").write_bytes(data)
    with pytest.raises(DataError, match=r"instances_val2014.json is no valid JSON \(.*\); is the file complete\?"):
        opened(JSON, root)


def test_the_shapes_of_all_objects_are_never_in_memory_at_once(root: Path) -> None:
    def grow(content: Any) -> None:
        polygon = [round(0.37 * k % 40, 2) for k in range(120)]
        proto = content["annotations"][0]
        content["annotations"] += [{**proto, "id": 10**6 + k, "segmentation": [polygon]} for k in range(5000)]

    size = changed(root, "train", grow).stat().st_size
    tracemalloc.start()
    dataset = opened(JSON, root)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset.splits["train"]) == 7
    assert size > 4e6
    assert peak < 3 * size + 8e6, "the file and a little for each object; a parsed tree takes seven times the file"


@pytest.mark.parametrize("module", ["msgspec", "pycocotools"])
def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    write_coco2014(tmp_path, masks="category_id")
    monkeypatch.delitem(sys.modules, "ctm.data.datasets.coco_instances", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"needs {module}, which is not installed: pip install 'ctm\[data\]'"):
        opened(JSON, tmp_path)
    assert read(MASKS, tmp_path, "train", N9).labels == (1, 17), "masks do without"


# Masks.


@ENCODINGS
def test_both_encodings_are_recognised_and_give_the_same_truth(
    tmp_path: Path, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = masked(tmp_path, encoding)
    with caplog.at_level(logging.INFO, logger="ctm"):
        dataset = opened(MASKS, root)
    assert f"dataset.mask_encoding: {encoding}), as recognised from 11 of 11 masks" in caplog.text
    assert dataset.left_out == {"train images without a mask": 1, "val images without a mask": 1}
    for key, sample in read_all(MASKS, root).items():
        np.testing.assert_array_equal(sample.mask, scene_mask(key), err_msg=key)
        assert sample.labels == tuple(np.unique(sample.mask)[1:].tolist())


def without_proof(tmp_path: Path, encoding: Any = "contiguous") -> Path:
    """Masks of which none tells the encoding."""
    root = masked(tmp_path)
    for split, scenes in SCENES.items():
        for number, scene in scenes.items():
            ids = scene.mask()
            ids[np.isin(ids, [STOP_SIGN, REMOTE, TOOTHBRUSH, REFRIGERATOR])] = CAR
            if scene.things:
                write_mask(root, split, number, ids, encoding=encoding)
    return root


def test_one_proof_decides_for_masks_that_hold_none(tmp_path: Path) -> None:
    root = without_proof(tmp_path, "category_id")
    write_mask(root, "val", 42, SCENES["val"][42].mask(), encoding="category_id")
    dataset = opened(MASKS, root)
    assert dataset.decode == opened(MASKS.model_copy(update={"mask_encoding": "category_id"}), root).decode
    # Category 18, dog, is value 17; taken for contiguous it would be 18, horse.
    assert read(MASKS, root, "train", N9).labels == (1, 17)


def test_without_proof_the_encoding_must_be_said(tmp_path: Path) -> None:
    root = without_proof(tmp_path)
    with pytest.raises(
        DataError, match=r"none of 11 masks .* set dataset.mask_encoding to contiguous .* or category_id"
    ):
        opened(MASKS, root)
    for encoding, labels in (("contiguous", (1, 17)), ("category_id", (1, 16))):
        config = MASKS.model_copy(update={"mask_encoding": encoding})
        assert read(config, root, "train", N9).labels == labels


def test_a_limited_number_of_masks_is_looked_at_evenly_over_both_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = without_proof(tmp_path)
    seen: list[str] = []
    looked = coco_masks._values
    monkeypatch.setattr(coco_masks, "PROOF_MASKS", 4)
    monkeypatch.setattr(coco_masks, "_values", lambda tree, paths: seen.extend(paths) or looked(tree, paths))
    with pytest.raises(DataError, match="none of 4 masks"):
        opened(MASKS, root)
    assert [path.split("/")[1] for path in seen] == ["train2014", "train2014", "train2014", "val2014"]
    assert len(set(seen)) == 4
    write_mask(root, "train", 9, SCENES["val"][42].mask(), encoding="category_id")
    with caplog.at_level(logging.INFO, logger="ctm"):
        opened(MASKS, root)
    assert "as recognised from 4 of 11 masks" in caplog.text


@pytest.mark.parametrize(
    ("encoding", "value", "valid"),
    [("contiguous", 81, "0 to 80"), ("category_id", 12, "COCO's 80 category ids"), ("category_id", 83, "COCO's 80")],
)
def test_a_value_of_the_other_encoding_names_file_value_and_option(
    tmp_path: Path, encoding: str, value: int, valid: str
) -> None:
    root = masked(tmp_path, encoding)
    ids = np.full((33, 40), 1, dtype=np.uint8)
    ids[0, 0] = value
    path = write_mask(root, "train", 9, ids, encoding="as it is")
    config = MASKS.model_copy(update={"mask_encoding": encoding})
    with pytest.raises(
        DataError, match=rf"mask values \[{value}\] .*{valid}.*dataset.mask_encoding: {encoding}"
    ) as error:
        read(config, root, "train", N9)
    assert str(error.value).startswith(f"{path}: ")


def test_ignored_pixels_stay_ignored_and_palettes_hold_values(tmp_path: Path) -> None:
    root = masked(tmp_path, "category_id")
    ids = SCENES["train"][9].mask()
    ids[0] = 255
    image = Image.fromarray(ids)
    image.putpalette([value % 256 for value in range(768)])
    image.save(root / "SegmentationClass" / "train2014" / f"{N9}.png")
    sample = read(MASKS, root, "train", N9)
    assert sample.mask is not None
    assert (sample.mask[0] == 255).all()
    np.testing.assert_array_equal(sample.mask[1:], scene_mask(N9)[1:])
    assert sample.labels == (1, 17)


def test_labels_from_masks_need_the_least_share_of_pixels(tmp_path: Path) -> None:
    root = masked(tmp_path)
    share = (scene_mask(N9) == 17).mean()
    for fraction, labels in ((share * 0.99, (1, 17)), (share * 1.01, (1,))):
        config = MASKS.model_copy(update={"min_label_fraction": fraction})
        assert read(config, root, "train", N9).labels == labels


# Parameters.


def test_classes_can_be_renamed(root: Path) -> None:
    names = ("nothing", *(f"class {value}" for value in range(1, 81)))
    config = JSON.model_copy(update={"classes": names, "background": "nothing"})
    assert open_coco2014(config, open_tree(str(root))).classes.names == names
    assert read(config, root, "train", N9).labels == (1, 17)
