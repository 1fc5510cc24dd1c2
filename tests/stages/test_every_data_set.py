"""All stages on every data set of the paper, and on the folder layout: counts, truth, masks and scores."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctm.data.check import check_dataset
from ctm.data.config import Format
from ctm.data.datasets import READERS, open_dataset
from ctm.data.shards import TRUTH, ShardFolder, Split
from ctm.data.unpack import write_masks
from ctm.errors import ArtifactError
from ctm.params import load_preset, preset_names
from ctm.runtime.storage import open_tree
from tests.conftest import TINY as DEMO_TINY
from tests.conftest import TinyPipeline
from tests.miniatures import ade20k, coco2014, dfc2020, endotect, folder, voc2012

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TINY = (
    *DEMO_TINY,
    "model.pretrained=false",
    "train_classifier.epochs=1",
    "train_classifier.warmup_epochs=0",
    "train_classifier.pruning_warmup_epochs=0",
    "extract_pseudomasks.blocks=2",
    "train_segmenter.epochs=1",
    "train_segmenter.warmup_epochs=0",
    "train_segmenter.arch=unet",
    "train_segmenter.encoder=resnet18",
    "train_segmenter.pretrained=false",
    "train_segmenter.image_size=null",
    "evaluate.compare=[random, attention]",
)
"""What makes any preset a matter of seconds."""

IGNORE = 255
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A data set, and what its miniature holds as the miniature itself says: not as any code of ctm reads it.

    Attributes:
        preset: whose parameters are taken.
        write: writes the miniature.
        keys: the samples of each split.
        labels: names of a sample's classes.
        truth: a sample's mask (H, W), given its key and the names of the classes; None where there is none.
        image: a sample's image (Ch, H, W), scaled to [0, 1], given the raw data and the key.
        left_out: what the data set's own rules leave out.
        settings: overrides beside ``TINY``.
        tolerance: share of a mask's pixels that may differ, where masks are stored with loss.
        place: the GeoTIFF that says where an image lies, given the raw data and the key.
    """

    preset: str
    write: Callable[[Path], None]
    keys: dict[str, list[str]]
    labels: Callable[[str], set[str]]
    truth: Callable[[str], Mask | None]
    image: Callable[[Path, str], NDArray[Any]]
    left_out: dict[str, int] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    tolerance: float = 0.0
    place: Callable[[Path, str], Path] | None = None


def photograph(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.array(image.convert("RGB")).transpose(2, 0, 1) / 255


# PASCAL VOC 2012.


def voc_truth(key: str) -> Mask | None:
    """The devkit's own mask; images that only SBD has masks for are labelled, but never scored."""
    if key in voc2012.AUG_ONLY:
        return None
    size, objects = voc2012.SCENES[key]
    return voc2012.with_void(voc2012.scene(size, objects, seed=int(key[-4:]))[1])


VOC = Case(
    preset="voc2012",
    write=voc2012.write_voc2012,
    keys={"train": list(voc2012.TRAIN_AUG), "val": list(voc2012.VAL)},
    labels=lambda key: set(voc2012.SCENES[key][1]),
    truth=voc_truth,
    image=lambda raw, key: photograph(raw / f"VOCdevkit/VOC2012/JPEGImages/{key}.jpg"),
    left_out={"images in neither the train nor the val list": 1},
)
VOC_SBD = replace(
    VOC,
    write=partial(voc2012.write_voc2012, aug="sbd"),
    keys={"train": sorted(voc2012.TRAIN_AUG), "val": list(voc2012.VAL)},
)
VOC_OBJECTS = replace(
    VOC,
    labels=lambda key: {*voc2012.SCENES[key][1], *filter(None, [voc2012.DIFFICULT.get(key)])},
    settings=("dataset.labels_from=annotations",),
)


# MS-COCO 2014.

COCO_NAMES = {
    coco2014.PERSON: "person",
    coco2014.CAR: "car",
    coco2014.STOP_SIGN: "stop sign",
    coco2014.DOG: "dog",
    coco2014.REMOTE: "remote",
    coco2014.REFRIGERATOR: "refrigerator",
    coco2014.TOOTHBRUSH: "toothbrush",
}
COCO_NEVER_USED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_SCENES = {
    coco2014.stem(split, number): scene
    for split, scenes in coco2014.SCENES.items()
    for number, scene in scenes.items()
    if scene.things
}


def coco_truth(key: str) -> Mask:
    """Category ids without their gaps."""
    ids = COCO_SCENES[key].mask()
    return (ids - sum((ids > gap).astype(np.uint8) for gap in COCO_NEVER_USED)).astype(np.uint8)


COCO = Case(
    preset="coco2014",
    write=coco2014.write_coco2014,
    keys={split: [key for key in COCO_SCENES if f"_{split}2014_" in key] for split in ("train", "val")},
    labels=lambda key: {COCO_NAMES[thing.category] for thing in COCO_SCENES[key].things},
    truth=coco_truth,
    image=lambda raw, key: photograph(raw / key.split("_")[1] / f"{key}.jpg"),
    left_out={"train images without annotation": 1, "val images without annotation": 1},
)
COCO_MASKS = replace(
    COCO,
    write=partial(coco2014.write_coco2014, annotations=False, masks="category_id"),
    left_out={"train images without a mask": 1, "val images without a mask": 1},
    settings=("dataset.labels_from=masks",),
)


# ADE20K.

ADE_NAMES = {0: "other objects", 1: "wall", 2: "building", 3: "sky", 4: "floor", 150: "flag"}


def ade_values(key: str) -> Mask:
    size, values = ade20k.SCENES[key]
    return ade20k.scene(size, values, seed=0)[1]


ADE = Case(
    preset="ade20k",
    write=ade20k.write_ade20k,
    keys={split: [key for key in ade20k.SCENES if f"_{split}_" in key] for split in ("train", "val")},
    labels=lambda key: {ADE_NAMES[value] for value in ade20k.SCENES[key][1]},
    truth=ade_values,
    image=lambda raw, key: photograph(
        raw / "ADEChallengeData2016/images" / ade20k.FOLDERS[key.split("_")[1]] / f"{key}.jpg"
    ),
)
ADE_IGNORE = replace(
    ADE,
    labels=lambda key: {ADE_NAMES[value] for value in ade20k.SCENES[key][1] if value},
    truth=lambda key: ade_values(key) - np.uint8(1),  # 0 becomes 255
    settings=("dataset.zero_label=ignore", "dataset.classes=null"),
)


# DFC2020.

DFC_NAMES = {1: "Forest", 2: "Shrubland", 4: "Grassland", 5: "Wetlands", 6: "Croplands", 7: "Urban/Built-up"}
DFC_NAMES |= {9: "Barren", 10: "Water"}


def dfc_patch(key: str) -> dict[str, np.ndarray]:
    return dfc2020.patch_rasters(int(key.rpartition("_p")[2]))


def dfc_labels(key: str) -> set[str]:
    """Classes of a tenth of the pixels and more; a tenth less a pixel is not enough."""
    ids, counts = np.unique(dfc_patch(key)["dfc"], return_counts=True)
    return {DFC_NAMES[i] for i, n in zip(ids.tolist(), counts, strict=True) if n >= 57.6 and i in DFC_NAMES}


def dfc_truth(key: str) -> Mask:
    ids = dfc_patch(key)["dfc"][0]
    return np.select([ids == i for i in DFC_NAMES], range(8), default=IGNORE).astype(np.uint8)


def dfc_image(raw: Path, key: str, *, by_maximum: bool = False) -> NDArray[Any]:
    s2 = np.minimum(dfc_patch(key)["s2"], 10_000) / 10_000
    s1 = np.clip(np.nan_to_num(dfc_patch(key)["s1"], nan=-25), -25, 0) / 25 + 1
    return np.concatenate([s2 / s2.max(), s1 / s1.max()] if by_maximum else [s2, s1])


def dfc_place(raw: Path, key: str) -> Path:
    season, _, number = key.rpartition("_")
    return next((raw / season).glob(f"s2_*/{season}_s2_0_{number}.tif"))


DFC = Case(
    preset="dfc2020",
    write=dfc2020.write_dfc2020,
    keys={
        split: [f"{season}_p{number}" for number in dfc2020.NUMBERS[split]] for split, season in dfc2020.SEASONS.items()
    },
    labels=dfc_labels,
    truth=dfc_truth,
    image=dfc_image,
    place=dfc_place,
)
DFC_MAXIMUM = replace(
    DFC,
    write=partial(dfc2020.write_dfc2020, suffixes={"train": "0", "val": "0"}),
    image=partial(dfc_image, by_maximum=True),
    settings=("dataset.scaling=image_max",),
)


# EndoTect (HyperKvasir).

ENDO_IMAGES = {
    endotect.name(finding, number): (finding, number)
    for finding, (_, _, count) in endotect.FOLDERS.items()
    for number in range(count)
}
"""Finding and number of each image, in the order of the tables."""
ENDO_WITHOUT_POLYPS = ("background", "cecum", "ulcerative-colitis-grade-2", "hemorrhoids", "bbps-0-1", "pylorus")


def endo_hash_keys() -> dict[str, list[str]]:
    """70 % by the hash of the name."""
    share = {key: int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) / 2**64 for key in sorted(ENDO_IMAGES)}
    return {"train": [key for key in share if share[key] < 0.7], "val": [key for key in share if share[key] >= 0.7]}


def endo_fold_keys() -> dict[str, list[str]]:
    """Fold 0 of five; the miniature deals its images out to the folds."""
    dealt = [(key, row % 5 == 0) for row, key in enumerate(ENDO_IMAGES) if ENDO_IMAGES[key][0] in ENDO_WITHOUT_POLYPS]
    return {split: sorted(key for key, val in dealt if val == (split == "val")) for split in ("train", "val")}


def endo_truth(key: str) -> Mask | None:
    """Polyps are class 5. No mask is no truth; an empty mask is one that says that there is no polyp."""
    finding, number = ENDO_IMAGES[key]
    return endotect.polyp(number) * np.uint8(5) if finding == "polyps" and number != endotect.WITHOUT_MASK else None


def endo_image(raw: Path, key: str) -> NDArray[Any]:
    return photograph(next((raw / "labeled-images").rglob(f"{key}.jpg")))


ENDO = Case(
    preset="endotect",
    write=endotect.write_endotect,
    keys=endo_hash_keys(),
    labels=lambda key: {ENDO_IMAGES[key][0]},
    truth=endo_truth,
    image=endo_image,
    left_out={"segmented images that are no labelled polyp": 1},
    settings=("model.image_size=[32, 48]",),
    tolerance=0.03,
)
ENDO_BLIND = replace(
    ENDO,
    keys=endo_fold_keys(),
    truth=lambda key: None,
    left_out={"images of findings that dataset.classes does not name": 8 + 1 + 2},
    settings=(f"dataset.classes=[{', '.join(ENDO_WITHOUT_POLYPS)}]", "dataset.folds=5"),
)


# The folder layout.

FOLDER_NAMES = [name for split in folder.NAMES.values() for name in split]


def folder_name(key: str) -> str:
    return {"b_v1": "b.v1"}.get(key, key)


def folder_sides(key: str) -> tuple[int, int]:
    number = FOLDER_NAMES.index(folder_name(key))
    return number % 3, (number + 1) % 3


def folder_truth(key: str) -> Mask | None:
    if key == "i":
        return None
    mask = np.empty(folder.SIZES[FOLDER_NAMES.index(folder_name(key)) % 5], dtype=np.uint8)
    half = mask.shape[1] // 2
    mask[:, :half], mask[:, half:] = folder_sides(key)
    mask[:, half] = IGNORE
    return mask


def folder_image(raw: Path, key: str) -> NDArray[Any]:
    name = folder_name(key)
    path = next(path for path in (raw / "images").iterdir() if path.stem == name)
    if path.suffix == ".npy":
        return np.asarray(np.load(path))
    if path.suffix == ".tif":
        import rasterio

        with rasterio.open(path) as raster:
            return np.asarray(raster.read() * 1e-4)
    return photograph(path)


FOLDER = Case(
    preset="photographs",
    write=folder.write_folder,
    keys={split: [name.replace(".", "_") for name in names] for split, names in folder.NAMES.items()},
    labels=lambda key: {folder.CLASSES[k] for k in folder_sides(key)},
    truth=folder_truth,
    image=folder_image,
    settings=("dataset.classes=null", "dataset.channels=null"),
)
FOLDER_ARRAYS = replace(
    FOLDER,
    write=partial(folder.write_folder, images="arrays"),
    settings=(*FOLDER.settings, "dataset.normalise=statistics"),
)
FOLDER_GEOTIFFS = replace(
    FOLDER,
    write=partial(folder.write_folder, images="geotiffs"),
    settings=(*FOLDER.settings, "dataset.normalise=none", "dataset.scale=0.0001"),
    place=lambda raw, key: raw / "images" / f"{folder_name(key)}.tif",
)

CASES = {
    "voc2012": VOC,
    "voc2012, raw SBD": VOC_SBD,
    "voc2012, labels of the XML files": VOC_OBJECTS,
    "coco2014": COCO,
    "coco2014, masks of category ids": COCO_MASKS,
    "ade20k": ADE,
    "ade20k, 0 ignored": ADE_IGNORE,
    "dfc2020": DFC,
    "dfc2020, image maximum": DFC_MAXIMUM,
    "endotect": ENDO,
    "endotect, no polyps, official folds": ENDO_BLIND,
    "folder": FOLDER,
    "folder, arrays of 13 bands": FOLDER_ARRAYS,
    "folder, GeoTIFFs": FOLDER_GEOTIFFS,
}


@dataclass(frozen=True)
class Run:
    """A data set that all stages have run on."""

    case: Case
    pipeline: TinyPipeline

    @property
    def raw(self) -> Path:
        return self.pipeline.raw

    @property
    def shards(self) -> ShardFolder:
        return ShardFolder.open(self.pipeline.path("preprocess", "shards"))

    @property
    def pseudomasks(self) -> ShardFolder:
        return ShardFolder.open(self.pipeline.path("extract_pseudomasks", "pseudomasks"))

    def samples(self) -> Iterator[tuple[Split, int, str]]:
        """Split, index and key of each sample of the shards."""
        for split in map(self.shards.split, self.shards.splits):
            yield from ((split, index, key) for index, key in enumerate(split.keys))

    def truths(self, split: str) -> dict[str, Mask]:
        """The masks that the miniature has, by key."""
        found = {key: self.case.truth(key) for key in self.case.keys[split]}
        return {key: mask for key, mask in found.items() if mask is not None}


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The stages, run on a miniature."""
    pytest.importorskip("rasterio", reason="needs the extra 'data'")
    case, root = CASES[request.param], tmp_path_factory.mktemp("data_set")
    case.write(root / "raw")
    pipeline = TinyPipeline(root / "run", root / "raw", load_preset(case.preset, (*TINY, *case.settings)))
    pipeline.path("evaluate", "report")
    return Run(case, pipeline)


def test_every_format_has_a_reader_and_every_preset_a_miniature():
    presets = {case.preset for case in CASES.values()}
    assert presets == set(preset_names()) - {"demo"}  # test_pipeline.py runs the demo
    assert {load_preset(name).dataset.format for name in presets} == set(READERS) == set(get_args(Format))


def test_preprocess_counts_what_the_miniature_holds(run):
    metrics, case = run.pipeline.metrics("preprocess"), run.case
    assert {name: run.shards.split(name).keys for name in run.shards.splits} == case.keys
    for split, keys in case.keys.items():
        assert metrics[split]["samples"] == len(keys)
        assert metrics[split]["with_truth"] == len(run.truths(split))
        labels = Counter(name for key in keys for name in case.labels(key))
        assert {name: count for name, count in metrics[split]["classes"].items() if count} == labels
        assert metrics[split]["skipped"] == 0
    assert (metrics["skipped"], metrics["left_out"]) == (0, case.left_out)
    assert run.pipeline.manifest("preprocess")["skipped"] == []


def test_check_data_counts_the_same(run):
    tree = open_tree(str(run.raw))
    dataset = open_dataset(run.pipeline.params.dataset, tree)
    metrics = run.pipeline.metrics("preprocess")
    for split, found in check_dataset(dataset, tree, workers=1).items():
        assert (found.samples, found.with_truth) == (metrics[split]["samples"], metrics[split]["with_truth"])
        assert found.labels == Counter({name: n for name, n in metrics[split]["classes"].items() if n})
        assert found.problems == []


def test_every_sample_has_its_own_labels(run):
    names = run.shards.classes.token_names
    for split, index, key in run.samples():
        assert {names[c] for c in split.labels[index].nonzero()[0]} == run.case.labels(key), key


def test_the_stored_truth_is_that_of_the_files(run):
    for split, index, key in run.samples():
        expected = run.case.truth(key)
        assert split.has(index, TRUTH) == (expected is not None), key
        if expected is not None:
            mask = split.mask(index, TRUTH)
            assert mask.shape == expected.shape
            assert np.mean(mask != expected) <= run.case.tolerance, key


def test_the_stored_image_is_that_of_the_files(run):
    for split, index, key in run.samples():
        image = split.image(index) * run.shards.scale
        np.testing.assert_allclose(image, run.case.image(run.raw, key), rtol=0, atol=0.501e-4, err_msg=key)


def test_pseudomasks_hold_nothing_but_the_classes_of_their_image(run):
    names = run.shards.classes.names
    blank = {"background": {run.shards.classes.background}, "nearest": set()}
    allowed = blank[run.pipeline.params.extract_pseudomasks.fill]
    for split, index, key in run.samples():
        masks = run.pseudomasks.split(split.name)
        mask = masks.mask(masks.index_of(key), "png")
        assert mask.shape == tuple(split.sizes[index])
        labels = {names.index(name) for name in run.case.labels(key)}
        assert set(np.unique(mask).tolist()) <= labels | allowed, key


def test_scores_are_there_where_there_is_truth_and_nowhere_else(run):
    metrics = run.pipeline.metrics("evaluate")
    assert set(metrics) == {"classifier", "heads", "pseudomasks", "segmenter"}
    assert set(metrics["pseudomasks"]) == {"train", "val"}
    assert set(metrics["pseudomasks"]["train"]["compare"]) == {"random", "attention"}
    assert 0 <= metrics["classifier"]["val"]["map"] <= 1
    for split, *found in (
        ("train", metrics["pseudomasks"]["train"], *metrics["pseudomasks"]["train"]["compare"].values()),
        ("val", metrics["pseudomasks"]["val"], metrics["segmenter"]["val"]),
    ):
        for scores in found:
            values = [scores[name] for name in ("miou", "pixel_accuracy", "coverage")]
            if run.truths(split):
                assert all(isinstance(value, float) and 0 <= value <= 1 for value in values)
            else:
                assert values == [None] * 3


@pytest.mark.parametrize("split", ["train", "val"])
def test_pseudomasks_are_scored_by_the_truth_of_the_files(run, split):
    scores, truths = run.pipeline.metrics("evaluate")["pseudomasks"][split], run.truths(split)
    present = {run.shards.classes.names[k] for mask in truths.values() for k in np.unique(mask) if k != IGNORE}
    assert {name for name, iou in scores["classes"].items() if iou is not None} == present
    assert scores["empty"] == 0
    if truths:
        masks = run.pseudomasks.split(split)
        found = np.concatenate([masks.mask(masks.index_of(key), "png").ravel() for key in truths])
        expected = np.concatenate([mask.ravel() for mask in truths.values()])
        accuracy = np.mean((found == expected)[expected != IGNORE])
        assert scores["pixel_accuracy"] == pytest.approx(accuracy, abs=run.case.tolerance + 1e-6)


def test_the_report_shows_the_data_set(run):
    page = run.pipeline.path("evaluate", "report").read_text(encoding="utf-8")
    metrics = run.pipeline.metrics("evaluate")
    assert page.count("data:image/") >= 6
    assert run.pipeline.params.dataset.format in page
    if run.truths("val"):
        assert f"{metrics['segmenter']['val']['miou']:.3f}" in page
    else:
        assert "no masks to score against" in page
    with Image.open(run.pipeline.path("preprocess", "contact_sheet")) as sheet:
        assert min(sheet.size) > 100


def test_pseudomasks_unpack_as_pictures(run, tmp_path):
    count = sum(map(len, run.case.keys.values()))
    assert write_masks(run.pseudomasks.path, tmp_path / "png") == count
    for split, _, key in run.samples():
        masks = run.pseudomasks.split(split.name)
        with Image.open(tmp_path / "png" / split.name / f"{key}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), masks.mask(masks.index_of(key), "png"))


def test_pseudomasks_unpack_as_geotiffs_where_their_images_lie(run, tmp_path):
    import rasterio

    out = tmp_path / "geotiff"
    if run.case.place is None:
        with pytest.raises(ArtifactError, match="does not say where it lies"):
            write_masks(run.pseudomasks.path, out, format="geotiff")
        assert not out.exists()
        return
    assert write_masks(run.pseudomasks.path, out, format="geotiff") == sum(map(len, run.case.keys.values()))
    for split, _, key in run.samples():
        masks = run.pseudomasks.split(split.name)
        with (
            rasterio.open(run.case.place(run.raw, key)) as source,
            rasterio.open(out / split.name / f"{key}.tif") as found,
        ):
            assert found.crs.to_epsg() == 32632
            assert (found.crs, found.transform, found.bounds) == (source.crs, source.transform, source.bounds)
            np.testing.assert_array_equal(found.read(1), masks.mask(masks.index_of(key), "png"))


def test_the_labels_of_the_folder_layout_are_those_of_its_table(tmp_path):
    """What the expectations above say of the folder layout is what its files say."""
    folder.write_folder(tmp_path)
    with (tmp_path / "labels.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = {row["image"]: set(row["classes"].split(";")) for row in csv.DictReader(file)}
    assert rows == {name: FOLDER.labels(name.replace(".", "_")) for name in FOLDER_NAMES}
