"""Everything that can be wrong with raw data: one clear error that names the file, or a counted skip; never more.

The tables say what is spoilt in a good miniature, what the error must say, and which samples a run that skips loses.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctm.data.check import check_dataset
from ctm.data.datasets import open_dataset
from ctm.data.findings import all_problems
from ctm.data.sample import safe_key
from ctm.data.shards import ShardFolder
from ctm.errors import DataError
from ctm.runtime.storage import open_tree
from tests.miniatures import endotect, voc2012
from tests.miniatures.damage import (
    Change,
    all_renamed,
    array_with,
    bitflips,
    copied_to,
    cut,
    doubled,
    drawn,
    emptied,
    first_row_repeated,
    flattened,
    geotiff_bomb,
    grey_png_bomb,
    holding,
    huge_coco_image,
    jpeg_bomb,
    latin1,
    line_added,
    linked_nowhere,
    linked_out,
    mat_bomb,
    moved,
    nan_band,
    npy_bomb,
    png_bomb,
    png_text_bomb,
    recoded_as_colours,
    replaced,
    resized,
    unknown_id,
    vrt,
    with_value,
    written_again,
    xml_bomb,
    zeros_of,
)
from tests.miniatures.samples import keys, opened, packed
from tests.miniatures.sets import SETS

pytest.importorskip("rasterio", reason="needs the extra 'data'")
pytest.importorskip("pycocotools", reason="needs the extra 'data'")

deleted = Path.unlink


@dataclass(frozen=True)
class Damage:
    """What is done to a miniature, and what must come of it.

    Attributes:
        data: which one, see ``SETS``.
        path: the file or folder, below the miniature's home.
        change: does the damage to it.
        says: words of the message: the file, what is wrong, what to do.
        gone: the keys that a run with ``on_error: skip`` leaves out; None where the data set as a whole is unusable.
        problems: how many are listed with skip.
    """

    data: str
    path: str
    change: Change
    says: Sequence[str]
    gone: frozenset[str] | None
    problems: int = 1

    def spoil(self, root: Path) -> None:
        self.change(root / SETS[self.data].home / self.path)


def damage(
    data: str,
    path: str,
    change: Change,
    *says: str,
    names: str | None = None,
    lost: str | None = None,
    problems: int = 1,
) -> Damage:
    """Damage to one file: the message names it, or ``names``, and its own sample is lost, or ``lost``."""
    key = re.sub("_(s1|s2|dfc)_0_p", "_p", safe_key(Path(path).stem)) if lost is None else lost
    return Damage(
        data, path, change, [path if names is None else names, *says], frozenset(filter(None, [key])), problems
    )


def ruin(data: str, path: str, change: Change, *says: str) -> Damage:
    """Damage that makes the data set as a whole unusable."""
    return Damage(data, path, change, says, None)


POLYP = endotect.name("polyps", 3)
POLYPS = "labeled-images/lower-gi-tract/pathological-findings/polyps"
ENDOTECT_FOLDS = "official_splits/2_fold_split.csv"
ENDOTECT_LABELS = "labeled-images/image-labels.csv"
POLYP_MASK = f"segmented-images/masks/{POLYP}.jpg"
COCO_IMAGE = "COCO_train2014_000000000025"
COCO_MASK = f"SegmentationClass/train2014/{COCO_IMAGE}.png"
COCO_JSON = "annotations/instances_train2014.json"
LISTS = "ImageSets/Segmentation"
S2, S1, DFC = (f"ROIs0000_test/{sensor}_0/ROIs0000_test_{sensor}_0_p{{}}.tif" for sensor in ("s2", "s1", "dfc"))


def secret_beside(change: Change) -> Change:
    """Does a change to a file, and puts a photograph beside the data, which a path with ``..`` would reach."""

    def both(path: Path) -> None:
        change(path)
        root = next(folder for folder in path.parents if folder.name == "raw")
        Image.new("RGB", (20, 20)).save(root.parent / "secret.jpg")

    return both


def sbd_mask(value: int, *size: int) -> Change:
    """A mask of SBD that holds one value."""
    return lambda path: voc2012.write_sbd_mask(path, np.full(size, value, np.uint8))


TRUNCATED = [
    damage("voc2012", "JPEGImages/2007_000039.jpg", cut, "no readable image", "truncated", "replace the file"),
    damage("coco2014", f"train2014/{COCO_IMAGE}.jpg", cut, "no readable image"),
    damage("ade20k", "images/training/ADE_train_00000002.jpg", cut, "no readable image"),
    damage("endotect", f"{POLYPS}/{POLYP}.jpg", cut, "no readable image"),
    damage("folder", "images/a.jpg", cut, "no readable image"),
    damage("folder", "images/e.bmp", cut, "no readable image"),
    damage("endotect", POLYP_MASK, cut, "no readable jpg"),
    damage("voc2012", "SegmentationClass/2007_000042.png", cut, "no readable mask"),
    damage("voc2012", "SegmentationClassAug/2008_000002.png", cut, "no readable mask"),
    damage("coco2014 masks", COCO_MASK, cut, "no readable mask"),
    damage("ade20k", "annotations/validation/ADE_val_00000002.png", cut, "no readable mask"),
    damage("folder", "masks/a.png", cut, "no readable mask"),
    *(damage("dfc2020", path.format(11), cut, "no readable raster", "replace the file") for path in (S2, S1, DFC)),
    damage("geotiffs", "images/c.tif", cut, "no readable raster"),
    damage("geotiffs", "masks/c.tif", cut, "no readable raster"),
    damage("arrays", "images/c.npy", cut, "the file is damaged"),
    ruin("coco2014", COCO_JSON, cut, COCO_JSON, "no valid JSON", "is the file complete"),
    damage("voc2012 xml", "Annotations/2007_000063.xml", cut, "no readable XML"),
    damage("sbd", "cls/2008_000007.mat", cut, "no readable MATLAB"),
]

EMPTY = [
    damage("voc2012", "JPEGImages/2007_000039.jpg", emptied, "no readable image"),
    damage("ade20k", "annotations/training/ADE_train_00000001.png", emptied, "no readable mask"),
    damage("endotect", POLYP_MASK, emptied, "no readable jpg"),
    damage("dfc2020", S1.format(2), emptied, "the file is empty"),
    damage("arrays", "images/a.npy", emptied, "no readable array"),  # the first image: the next says what all are
    damage("sbd", "cls/2010_000002.mat", emptied, "no readable MATLAB"),
    damage("voc2012 xml", "Annotations/2007_000033.xml", emptied, "no readable XML"),
    ruin("coco2014", COCO_JSON, emptied, COCO_JSON, "no valid JSON"),
    ruin("voc2012", f"{LISTS}/val.txt", holding(b"\n \n"), "split 'val' has no image"),
    ruin("folder", "splits/val.txt", emptied, "split 'val' has no image"),
    ruin("folder", "labels.csv", emptied, "labels.csv", "no column"),
]

BOMBS = [
    damage("folder", "images/c.png", png_bomb, "no readable image", "decompression bomb"),
    damage("ade20k", "annotations/training/ADE_train_00000003.png", grey_png_bomb, "decompression bomb"),
    damage("coco2014 masks", COCO_MASK, grey_png_bomb, "decompression bomb"),
    damage("folder", "images/c.png", png_text_bomb, "too large", "no readable image"),
    damage("voc2012", "JPEGImages/2008_000007.jpg", jpeg_bomb, "decompression bomb"),
    damage("endotect", POLYP_MASK, jpeg_bomb, "decompression bomb"),
    damage("arrays", "images/c.npy", npy_bomb(13, 60_000, 60_000), "claims 60000x60000 pixels", "cut it into tiles"),
    damage("arrays", "images/c.npy", npy_bomb(1 << 40, 24, 36), "more than the 536,870,910 values"),
    damage("arrays", "images/c.npy", npy_bomb(13, 6_000, 6_000), "claims 1,872,000,000 bytes, 64 follow"),
    damage("arrays", "images/a.npy", npy_bomb(13, 60_000, 60_000), "60000x60000"),
    damage("arrays", "images/c.npy", npy_bomb(13, 24, 36, dtype="|O"), "Python objects, which are not read"),
    damage("dfc2020", S2.format(12), geotiff_bomb(13), "claims 60000x60000 pixels"),
    damage("geotiffs", "masks/c.tif", geotiff_bomb(1), "claims 60000x60000 pixels"),
    damage("sbd", "cls/2008_000008.mat", mat_bomb, "far too large"),
    damage("voc2012 xml", "Annotations/2007_000063.xml", xml_bomb, "no readable XML"),
    damage(
        "coco2014", COCO_JSON, huge_coco_image, "instances JSON says 60000x60000", names=COCO_IMAGE, lost=COCO_IMAGE
    ),
]

IMAGES = [
    damage("coco2014", f"train2014/{COCO_IMAGE}.jpg", drawn("RGB", (29, 40)), "is 29x40 pixels", "JSON says 40x29"),
    damage("folder", "images/a.jpg", drawn("I;16", (36, 24), suffix=".png"), "'I;16'", "8 bits", names="images/a.png"),
    damage("sbd", "cls/2008_000007.mat", bitflips, "no readable MATLAB"),
]

MASKS = [
    damage("voc2012", "SegmentationClass/2007_000033.png", recoded_as_colours, "'RGB'", "palette"),
    damage("voc2012", "SegmentationClassAug/2010_000002.png", recoded_as_colours, "'RGB'"),
    damage("coco2014 masks", COCO_MASK, recoded_as_colours, "'RGB'"),
    damage("ade20k", "annotations/training/ADE_train_00000005.png", recoded_as_colours, "'RGB'"),
    damage("ade20k", "annotations/training/ADE_train_00000005.png", drawn("I;16", (31, 48)), "'I;16'"),
    damage("folder", "masks/a.png", recoded_as_colours, "'RGB'", "palette (P) PNG"),
    damage("voc2012", "SegmentationClass/2007_000033.png", with_value(21), "[21]", "0 to 20", "255 (ignore)"),
    damage("voc2012", "SegmentationClassAug/2010_000002.png", with_value(21), "[21]", "0 to 20"),
    damage("sbd", "cls/2008_000002.mat", sbd_mask(21, 25, 40), "[21]", "0 to 20"),
    damage("coco2014 masks", COCO_MASK, with_value(200), "[200]", "0 to 80"),
    ruin("coco2014 masks", COCO_MASK, with_value(90), COCO_IMAGE, "000000049.png a value", "two encodings"),
    damage("ade20k", "annotations/training/ADE_train_00000005.png", with_value(151), "[151]", "to 150"),
    damage("dfc2020", DFC.format(13), written_again(unknown_id), "land cover ids [77] are unknown", "0 to 10"),
    damage("folder", "masks/c.png", with_value(3), "[3]", "0 to 2"),
    damage("geotiffs", "masks/c.tif", written_again(unknown_id), "[77]", "0 to 2"),
    damage("voc2012", "SegmentationClass/2007_000033.png", resized, "is 48x32 pixels", "its image is 46x35"),
    damage("voc2012", "SegmentationClassAug/2008_000002.png", resized, "is 42x22 pixels", "its image is 40x25"),
    damage("coco2014 masks", COCO_MASK, resized, "is 42x26 pixels", "its image is 40x29"),
    damage("ade20k", "annotations/training/ADE_train_00000005.png", resized, "is 33x45 pixels", "its image is 31x48"),
    damage("endotect", POLYP_MASK, resized, "44x33", "42x36", "one size"),
    damage("sbd", "cls/2008_000002.mat", sbd_mask(1, 40, 25), "25x40", "40x25"),
    damage("folder", "masks/a.png", resized, "the mask is 38x21 pixels (width x height), but its image is 36x24"),
]

RASTERS = [
    damage("dfc2020", S2.format(10), written_again(lambda bands: bands[:12]), "12 bands, expected 13"),
    damage("geotiffs", "images/c.tif", written_again(lambda bands: bands[:3]), "3 bands, expected 4"),
    damage("geotiffs", "masks/c.tif", written_again(lambda bands: bands[[0, 0]]), "2 bands, expected 1"),
    damage("arrays", "images/c.npy", array_with(lambda bands: bands[:12]), "12 bands, expected 13"),
    damage("dfc2020", S1.format(10), written_again(nan_band), "band 2 holds no value (all NaN)"),
    damage("geotiffs", "images/c.tif", written_again(nan_band), "band 2 holds no value"),
    damage("arrays", "images/c.npy", array_with(nan_band), "band 2 holds no value"),
    damage("dfc2020", S2.format(10), vrt, "no readable raster"),
    damage("dfc2020", S2.format(10), written_again(np.float32), "holds float32 values; expected integers"),
    damage("geotiffs", "masks/c.tif", written_again(np.float32), "the mask holds float32 values; store class indices"),
    damage("geotiffs", "images/c.tif", written_again(np.uint8), "has 8 bits, the first image has more than 8"),
    damage("arrays", "images/c.npy", zeros_of(13, 24, 36, dtype="u1"), "has 8 bits, the first image has more than 8"),
    damage("arrays", "images/c.npy", zeros_of(13, 24, 36, dtype="c8"), "holds complex64 values; valid are uint8"),
    damage("arrays", "images/c.npy", zeros_of(24, 36, 13), "looks like (height, width, channels); save it as"),
    damage("arrays", "images/c.npy", zeros_of(1, 13, 24, 36), "shape (1, 13, 24, 36); expected (channels, "),
    damage("arrays", "images/c.npy", zeros_of(13, 0, 36), "the image has no pixels"),
]

PLACES = [
    damage(
        "dfc2020",
        S1.format(14),
        written_again(crs="EPSG:32633"),
        "partner s1 lie on different grids: EPSG:32632",
        "and EPSG:32633",
        "warp one to the other",
        names=S2.format(14),
    ),
    damage("dfc2020", DFC.format(14), written_again(crs="EPSG:4326"), "partner dfc", "EPSG:4326", names=S2.format(14)),
    damage("dfc2020", DFC.format(2), moved, "different grids", "(500480", "(500490", names=S2.format(2)),
    damage("geotiffs", "masks/c.tif", written_again(crs="EPSG:32633"), "partner mask", "32633", names="images/c.tif"),
    damage("geotiffs", "masks/c.tif", moved, "different grids", names="images/c.tif"),
    damage(
        "dfc2020",
        DFC.format(14),
        written_again(lambda bands: bands[:, 1:]),
        "differ in size (height, width): (24, 24) (s2) and (23, 24) (dfc)",
        names=S2.format(14),
    ),
    damage("geotiffs", "masks/c.tif", written_again(lambda bands: bands[:, :, 1:]), "is 23x36 pixels", "is 24x36"),
]

NAMES = [
    damage("folder", "images/a.jpg", copied_to("a.png"), "'a.jpg' and 'a.png' get one key ('a'); rename one", names=""),
    damage(
        "folder",
        "images/a.jpg",
        copied_to("b v1.jpg"),
        "'b v1.jpg' and 'b.v1.jpg' get one key ('b_v1')",
        names="",
        lost="b_v1",
    ),
    damage("folder", "masks/a.png", copied_to("a.tif"), "masks/a.tif have one name; remove one"),
    *(
        damage(data, path, doubled, "have one name; remove one")
        for data, path in (
            ("voc2012", "JPEGImages/2007_000039.jpg"),
            ("voc2012", "SegmentationClass/2007_000033.png"),
            ("voc2012", "SegmentationClassAug/2008_000002.png"),
            ("coco2014", f"train2014/{COCO_IMAGE}.jpg"),
            ("coco2014 masks", f"train2014/{COCO_IMAGE}.jpg"),
            ("ade20k", "images/training/ADE_train_00000001.jpg"),
            ("ade20k", "annotations/training/ADE_train_00000001.png"),
            ("endotect", POLYP_MASK),
        )
    ),
    damage(
        "endotect",
        f"{POLYPS}/{POLYP}.jpg",
        copied_to(f"../../anatomical-landmarks/cecum/{POLYP}.jpg"),
        f"cecum/{POLYP}.jpg",
        "have one name; remove one",
    ),
    damage(
        "dfc2020",
        S2.format(13),
        copied_to("../s2_copy/ROIs0000_test_s2_0_p13.tif"),
        "patch 13 of ROIs0000_test has its s2 raster twice",
        "s2_copy/ROIs0000_test_s2_0_p13.tif",
        "remove one",
    ),
]

MISSING = [
    damage("voc2012", "JPEGImages/2008_000002.jpg", deleted, "missing, but listed"),
    damage("coco2014", f"train2014/{COCO_IMAGE}.jpg", deleted, "instances_train2014.json lists it", "image 25"),
    damage("coco2014 masks", f"train2014/{COCO_IMAGE}.jpg", deleted, "no image of this name in", names=COCO_MASK),
    damage("endotect", f"{POLYPS}/{POLYP}.jpg", deleted, f"no image {POLYP}.jpg", names="image-labels.csv"),
    damage("folder", "images/c.png", deleted, "no image 'c'", "remove the line", names="labels.csv line 4"),
    damage(
        "ade20k",
        "annotations/training/ADE_train_00000001.png",
        deleted,
        "images/training/ADE_train_00000001.jpg: no partner",
        "add it or remove this file",
    ),
    damage(
        "ade20k",
        "images/training/ADE_train_00000001.jpg",
        deleted,
        "annotations/training/ADE_train_00000001.png: no partner",
    ),
    damage(
        "dfc2020",
        DFC.format(13),
        deleted,
        "its partner dfc_*/ROIs0000_test_dfc_0_p13.tif is missing; add it or remove the patch",
        names=S2.format(13),
    ),
    damage(
        "dfc2020",
        S2.format(13),
        deleted,
        "its partner s2_*/ROIs0000_test_s2_0_p13.tif is missing",
        names=S1.format(13),
    ),
    *(
        damage(data, f"SegmentationClass/{name}.png", deleted, "missing, but the devkit has masks for all")
        for data, name in (("voc2012", "2007_000032"), ("voc2012 xml", "2007_000061"))
    ),
    *(
        damage(
            "voc2012",
            path,
            deleted,
            "no mask in SegmentationClassAug, raw SBD or SegmentationClass",
            names=image,
        )
        for path, image in (
            ("SegmentationClass/2007_000061.png", "JPEGImages/2007_000061.jpg"),
            ("SegmentationClassAug/2008_000002.png", "JPEGImages/2008_000002.jpg"),
        )
    ),
    damage(
        "voc2012 xml",
        "Annotations/2007_000061.xml",
        deleted,
        "no XML file in Annotations to take labels from",
        names="JPEGImages/2007_000061.jpg",
    ),
    ruin("voc2012", f"{LISTS}/val.txt", deleted, "val.txt is missing"),
    ruin("voc2012", f"{LISTS}/train.txt", deleted, "train.txt is missing"),
    ruin("sbd", "val.txt", deleted, "VOCaug/dataset/val.txt is missing"),
    ruin("folder", "images", shutil.rmtree, "images is missing"),
    ruin("voc2012", "ImageSets", shutil.rmtree, "no folder ImageSets/Segmentation/", "dataset.root to VOC2012"),
    ruin("coco2014", "val2014", shutil.rmtree, "no val images of COCO 2014: expected JPEGs in val2014/, JPEG"),
    ruin("coco2014", "annotations", shutil.rmtree, f"holds no {COCO_JSON}: unpack annotations_trainval2014.zip"),
    ruin(
        "coco2014 masks",
        "SegmentationClass",
        shutil.rmtree,
        "holds no train masks: expected PNGs in SegmentationClass/train2014/ or",
    ),
    ruin("ade20k", "images", shutil.rmtree, "holds no folder images/training/", "dataset.root to ADEChallengeData2016"),
    ruin("ade20k", "images/validation", shutil.rmtree, "images/validation holds no .jpg file"),
    ruin("ade20k", "annotations/training", shutil.rmtree, "annotations/training holds no .png file"),
    ruin("endotect", "labeled-images", shutil.rmtree, "no labelled image", "expected labeled-images/lower-gi-tract/"),
    ruin(
        "dfc2020",
        "ROIs0000_test",
        shutil.rmtree,
        "holds no folder ROIs0000_test; DFC2020 needs ROIs0000_test and ROIs0000_validation",
    ),
    ruin("dfc2020", "ROIs0000_test/s2_0", shutil.rmtree, "ROIs0000_test in", "holds no file s2_*/*_s2_*_p*.tif"),
    ruin("dfc2020", "ROIs0000_test/dfc_0", shutil.rmtree, "holds no file dfc_*/*_dfc_"),
    ruin("dfc2020", "", flattened, "contest's unlabelled form (flat s1/ and s2/)", "get the labelled release"),
    ruin("folder", "labels.csv", deleted, "labels.csv is missing"),
    ruin("folder", "classes.txt", deleted, "classes.txt is missing"),
    ruin("folder", "splits/val.txt", deleted, "val.txt is missing"),
]

TABLES = [
    *(
        ruin(data, path, latin1, path, "no UTF-8 text", "save it as UTF-8")
        for data, path in (
            ("folder", "labels.csv"),
            ("folder", "classes.txt"),
            ("folder", "splits/train.txt"),
            ("voc2012", f"{LISTS}/train_aug.txt"),
            ("sbd", "train.txt"),
            ("ade20k", "objectInfo150.txt"),
            ("endotect", ENDOTECT_LABELS),
            ("endotect folds", ENDOTECT_FOLDS),
        )
    ),
    ruin("voc2012", f"{LISTS}/val.txt", line_added("2007_000033"), "val.txt: image '2007_000033' is listed twice"),
    ruin(
        "voc2012",
        f"{LISTS}/train_aug.txt",
        line_added("/JPEGImages/2007_000032.jpg x"),
        "train_aug.txt: image '2007_000032' is listed twice",
    ),
    ruin("folder", "splits/val.txt", line_added("g.jpg"), "val.txt line 4: image 'g.jpg' is listed twice"),
    ruin("folder", "splits/val.txt", line_added("c"), "splits", "in train and in val, such as 'c'"),
    damage("endotect", ENDOTECT_LABELS, line_added("gone,Lower GI,cecum,"), "line 27: no image gone.jpg; add", lost=""),
    damage(
        "endotect",
        ENDOTECT_LABELS,
        replaced(f"{POLYP},Lower GI,polyps", f"{POLYP},Lower GI,ileum"),
        f"{POLYPS}/{POLYP}.jpg: its folder says 'polyps', but",
        "line 5 'ileum'",
        lost=POLYP,
    ),
    damage(
        "endotect",
        ENDOTECT_LABELS,
        replaced(f"{POLYP},Lower GI,polyps,pathological-findings\r\n", ""),
        f"{POLYPS}/{POLYP}.jpg: no row in",
        lost=POLYP,
    ),
    damage(
        "endotect folds",
        ENDOTECT_FOLDS,
        replaced(f"{POLYP}.jpg;polyp", f"{POLYP}.jpg;normal-cecum"),
        f"{POLYPS}/{POLYP}.jpg: its folder says 'polyps', but",
        "'cecum'",
        lost=POLYP,
    ),
    damage(
        "endotect folds",
        ENDOTECT_FOLDS,
        replaced(f"{POLYP}.jpg", "other.jpg"),
        f"{POLYPS}/{POLYP}.jpg: no row in",
        lost=POLYP,
    ),
    ruin("endotect", ENDOTECT_LABELS, replaced("Finding", "Class"), "no column 'Finding' in the first line"),
    ruin("endotect", ENDOTECT_LABELS, first_row_repeated, "has a row already, in line 2"),
    ruin("folder", "splits/tune.txt", holding(b"a\ng"), "tune.txt: 1 images are not in", "such as 'g'"),
    ruin("folder", "classes.txt", holding(b"\n"), "classes.txt is empty"),
    ruin("folder", "classes.txt", replaced("sand", ""), "classes.txt line 2 is empty"),
    ruin("folder", "labels.csv", replaced("classes", "label"), "no column 'classes'", "found ['image', 'label']"),
    ruin("folder", "labels.csv", replaced("a,grass;", "a,grass,"), "line 2: more cells than columns", "with ';'"),
    ruin(
        "folder",
        "labels.csv",
        replaced("a,grass", 'a,"grass' + 10_000 * "\nb,sky;cow;grass"),
        "field larger than field limit",
        "is a quotation mark not closed before it",
    ),
    ruin("folder", "labels.csv", replaced("c,sea", "a.jpg,sea"), "line 4: image 'a.jpg' has a row already"),
    damage(
        "folder",
        "labels.csv",
        replaced("a,grass;sand", "a,grass;snad"),
        "line 2: unknown class 'snad'; valid names: grass, sand, sea",
        lost="a",
    ),
    damage("folder", "labels.csv", replaced("a,grass;sand", "a, ;"), "line 2: the image has no class", lost="a"),
    damage(
        "folder",
        "labels.csv",
        replaced("a,grass;sand\r\n", ""),
        "image 'a.jpg' has no row; every image needs its classes",
        lost="a",
    ),
    damage(
        "folder",
        "splits/train.txt",
        replaced("a\n", "zz.jpg\n"),
        "line 1: no image 'zz.jpg' in",
        "add the file or remove the line",
        lost="a",
    ),
    ruin("folder", "images", all_renamed(lambda path: path.with_suffix(".heic")), "no image (suffixes read: .bmp, "),
    ruin(
        "folder",
        "masks",
        all_renamed(lambda path: path.with_name(f"{path.stem}_gt.png")),
        "none of the 8 masks has the name of an image",
        "found a_gt.png",
    ),
    ruin(
        "folder",
        "masks",
        all_renamed(lambda path: path.with_suffix(".bmp")),
        "masks holds no mask (suffixes read: .png, .tif, .tiff), but a.bmp; convert the masks",
    ),
    *(
        damage("voc2012 xml", "Annotations/2007_000033.xml", holding(text), words)
        for text, words in (
            (
                b"<annotation><object><name>zebra</name></object></annotation>",
                "unknown class 'zebra'; valid names: aerop",
            ),
            (b"<annotation><object/></annotation>", "objects of unknown class ''"),
            (b'<?xml version="1.0" encoding="martian"?><annotation/>', "no readable XML"),
            (b"<html/>", "it holds <html>, not <annotation>"),
        )
    ),
]

PATHS_OUT = [
    damage(
        "voc2012",
        f"{LISTS}/train_aug.txt",
        secret_beside(line_added("../../../../secret")),
        "missing, but listed",
        names="JPEGImages/secret.jpg",
        lost="",
    ),
    damage(
        "folder",
        "labels.csv",
        secret_beside(line_added("../../secret.jpg,sea")),
        "labels.csv line 11: no image '../../secret.jpg'",
        lost="",
    ),
    damage(
        "folder",
        "splits/train.txt",
        secret_beside(line_added("../secret.jpg")),
        "train.txt line 7: no image '../secret.jpg'",
        lost="",
    ),
    damage(
        "coco2014",
        COCO_JSON,
        secret_beside(replaced(f'"{COCO_IMAGE}.jpg"', '"../../secret.jpg"')),
        "missing",
        names="train2014/secret.jpg",
        lost=COCO_IMAGE,
    ),
    damage(
        "endotect folds",
        ENDOTECT_LABELS,
        secret_beside(line_added("../../secret,Lower GI,cecum,anatomical")),
        "no image ../../secret.jpg",
        lost="",
    ),
]

OUT = "a symbolic link out of the data folder"
LINKS = [  # of an image that is no more there without its link, that is a problem too
    damage("voc2012", "JPEGImages/2007_000039.jpg", linked_out, OUT, "outside/2007_000039.jpg", problems=2),
    damage("folder", "images/a.jpg", linked_out, OUT, "put the files themselves there", problems=2),
    damage("folder", "masks/a.png", linked_out, OUT, lost=""),
    damage("dfc2020", S2.format(2), linked_out, OUT, problems=2),
    damage("folder", "images/a.jpg", linked_nowhere, "leads nowhere", problems=2),
    ruin("folder", "splits/val.txt", linked_out, "splits/val.txt", OUT),
    ruin("folder", "images", linked_out, "images", OUT),
    ruin("voc2012", "JPEGImages", linked_out, "JPEGImages", OUT),
    ruin("ade20k", "images/validation", linked_out, "images/validation", OUT),
    ruin("coco2014", "train2014", linked_out, "train2014", OUT),
]

TABLE = [*TRUNCATED, *EMPTY, *BOMBS, *IMAGES, *MASKS, *RASTERS, *PLACES, *NAMES, *MISSING, *TABLES, *PATHS_OUT, *LINKS]
DAMAGES = pytest.mark.parametrize("case", TABLE, ids=lambda case: f"{case.data} {case.path}: {case.says[-1]}")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The good miniatures, each written once; for copying."""
    found: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in found:
            found[name] = tmp_path_factory.mktemp("good") / "raw"
            SETS[name].write(found[name])
        return found[name]

    return write


@pytest.fixture
def spoilt(good: Callable[[str], Path], tmp_path: Path) -> Callable[[Damage], Path]:
    """Copies a miniature and does the damage."""

    def copy(case: Damage) -> Path:
        shutil.copytree(good(case.data), tmp_path / "raw")
        case.spoil(tmp_path / "raw")
        return tmp_path / "raw"

    return copy


def refusal(case: Damage, root: Path, out: Path, **settings: Any) -> str:
    """The message of the one error with which packing ends."""
    with pytest.raises(DataError) as caught:
        packed(SETS[case.data].config, root, out, **settings)
    message = str(caught.value)
    assert [words for words in case.says if words not in message] == [], message
    assert "\n" not in message
    assert not re.search(r" at 0x", message), "an address in memory tells nobody anything"
    assert "vsimem" not in message, "nor does a name that a library has made up"
    assert str(root) in message
    assert not out.exists()
    return message


@DAMAGES
def test_one_error_names_the_file(spoilt: Callable[[Damage], Path], tmp_path: Path, case: Damage) -> None:
    message = refusal(case, spoilt(case), tmp_path / "out")
    assert ("preprocess.on_error: skip" in message) == (case.gone is not None), "skip is offered where it helps"


@DAMAGES
def test_skipping_loses_that_sample_and_no_other(
    spoilt: Callable[[Damage], Path], good: Callable[[str], Path], tmp_path: Path, case: Damage
) -> None:
    root, config = spoilt(case), SETS[case.data].config
    if case.gone is None:
        refusal(case, root, tmp_path / "out", on_error="skip")
        return
    found = packed(config, root, tmp_path / "out", on_error="skip")
    shards, whole = ShardFolder.open(tmp_path / "out"), keys(opened(config, good(case.data)))
    for split, expected in whole.items():
        assert shards.split(split).keys == [key for key in expected if key not in case.gone]
    assert case.gone <= {key for expected in whole.values() for key in expected}
    tree = open_tree(str(root))
    dataset = open_dataset(config, tree)
    problems = all_problems(dataset, found)
    assert len(problems) == case.problems
    assert [words for words in case.says if words not in problems[0].message] == [], problems
    assert all_problems(dataset, check_dataset(dataset, tree, workers=1)) == problems, "check-data finds the same"


def test_what_claims_to_be_huge_is_refused_before_it_is_unpacked(good: Callable[[str], Path], tmp_path: Path) -> None:
    jobs = []
    for number, case in enumerate(BOMBS):
        shutil.copytree(good(case.data), tmp_path / str(number))
        case.spoil(tmp_path / str(number))
        jobs.append((case.path, SETS[case.data].config.model_dump(), str(tmp_path / str(number))))
    code = """
import json, re, resource, sys
from pathlib import Path
import PIL.Image, pycocotools.mask, rasterio
from ctm.data.config import DatasetConfig
from ctm.errors import DataError
from tests.miniatures.samples import packed
GB = 1 << 30
size = re.search(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
limit = (int(size[1]) << 10) + GB
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # what is claimed cannot be allocated, even untouched
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
for name, config, root in json.load(sys.stdin):
    before = peak()
    try:
        packed(DatasetConfig.model_validate(config), Path(root), Path(root + ".out"))
    except DataError:
        assert peak() - before < GB // 8, (name, peak() - before)
    else:
        sys.exit(f"{name}: no error")
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_links_within_the_root_and_a_linked_root_are_followed(good: Callable[[str], Path], tmp_path: Path) -> None:
    config = SETS["folder"].config
    shutil.copytree(good("folder"), tmp_path / "real")
    (tmp_path / "real" / "images").rename(tmp_path / "real" / "photos")
    (tmp_path / "real" / "images").symlink_to("photos")
    (tmp_path / "real" / "photos" / "a.jpg").rename(tmp_path / "real" / "elsewhere.jpg")
    (tmp_path / "real" / "photos" / "a.jpg").symlink_to("../elsewhere.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = packed(config, tmp_path / "link", tmp_path / "out")
    assert [(split.samples, split.problems) for split in found.values()] == [(6, []), (3, [])]
    packed(config, good("folder"), tmp_path / "plain")
    for name in ("train-00000.tar", "val-00000.tar"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_many_kinds_of_damage_at_once_are_all_listed(good: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(good("folder"), tmp_path / "raw")
    for path, change in (("images/a.jpg", cut), ("masks/c.png", with_value(3)), ("images/e.bmp", cut)):
        change(tmp_path / "raw" / path)
    found = packed(SETS["folder"].config, tmp_path / "raw", tmp_path / "out", workers=2, on_error="skip")
    assert [problem.path for problem in found["train"].problems] == ["images/a.jpg", "images/c.png", "images/e.bmp"]
    assert ShardFolder.open(tmp_path / "out").split("train").keys == ["b_v1", "d", "f"]
