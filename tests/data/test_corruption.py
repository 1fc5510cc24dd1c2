"""Everything that can be wrong with raw data: one clear error that names the file, or a counted skip; never more.

The tables say what is spoilt in a good miniature, what the error must name, and which samples a run that skips loses.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctm.data.check import check_dataset
from ctm.data.config import DatasetConfig
from ctm.data.datasets import open_dataset
from ctm.data.findings import all_problems
from ctm.data.shards import ShardFolder
from ctm.data.unpack import write_masks
from ctm.errors import ArtifactError, DataError
from ctm.runtime.storage import open_tree
from tests.miniatures import ade20k, coco2014, dfc2020, endotect, folder, voc2012
from tests.miniatures.samples import keys, opened, packed

pytest.importorskip("rasterio", reason="needs the extra 'data'")
pytest.importorskip("pycocotools", reason="needs the extra 'data'")

Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class DataSet:
    """A good miniature.

    Attributes:
        write: writes it.
        config: how it is read.
    """

    write: Callable[[Path], None]
    config: DatasetConfig


def _set(write: Callable[[Path], None], format: str, **options: Any) -> DataSet:
    return DataSet(write, DatasetConfig.model_validate({"format": format, "root": "raw", **options}))


SETS = {
    "voc2012": _set(voc2012.write_voc2012, "voc2012", background="background"),
    "sbd": _set(partial(voc2012.write_voc2012, aug="sbd"), "voc2012", background="background"),
    "voc2012 xml": _set(voc2012.write_voc2012, "voc2012", background="background", labels_from="annotations"),
    "coco2014": _set(coco2014.write_coco2014, "coco2014", background="background"),
    "coco2014 masks": _set(
        partial(coco2014.write_coco2014, annotations=False, masks="contiguous"),
        "coco2014",
        background="background",
        labels_from="masks",
    ),
    "ade20k": _set(ade20k.write_ade20k, "ade20k", zero_label="class"),
    "dfc2020": _set(dfc2020.write_dfc2020, "dfc2020", min_label_fraction=0.1),
    "endotect": _set(endotect.write_endotect, "endotect", background="background"),
    "endotect folds": _set(endotect.write_endotect, "endotect", background="background", folds=2),
    "folder": _set(folder.write_folder, "folder"),
    "arrays": _set(partial(folder.write_folder, images="arrays"), "folder"),
    "geotiffs": _set(partial(folder.write_folder, images="geotiffs"), "folder"),
}

VOC = "VOCdevkit/VOC2012/"
VOC_LISTS = f"{VOC}ImageSets/Segmentation/"
SBD = "VOCdevkit/VOCaug/dataset/cls/"
ADE = "ADEChallengeData2016/"
DFC = "ROIs0000_test/"
POLYP = endotect.name("polyps", 3)
POLYPS = "labeled-images/lower-gi-tract/pathological-findings/polyps/"
COCO_IMAGE = "COCO_train2014_000000000025"


@dataclass(frozen=True)
class Damage:
    """What is done to a miniature, and what must come of it.

    Attributes:
        data: which one, see ``SETS``.
        spoil: does the damage, given the root.
        says: words of the message: the file, what is wrong, what to do.
        gone: the keys that a run with ``on_error: skip`` leaves out; None where the data set as a whole is unusable.
        problems: how many are listed with skip.
    """

    data: str
    spoil: Spoil
    says: Sequence[str]
    gone: frozenset[str] | None
    problems: int = 1


def damage(data: str, spoil: Spoil, *says: str, gone: Sequence[str] = (), problems: int = 1) -> Damage:
    """Damage to single samples."""
    return Damage(data, spoil, says, frozenset(gone), problems)


def ruin(data: str, spoil: Spoil, *says: str) -> Damage:
    """Damage that makes the data set as a whole unusable."""
    return Damage(data, spoil, says, None)


# What is done to a file.


def at(path: str, change: Callable[[Path], object]) -> Spoil:
    """The change, done to one file."""
    return lambda root: change(root / path)


def cut(path: Path) -> None:
    """The file ends in the middle, as a download that broke off."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def recoded_as_colours(path: Path) -> None:
    """What a viewer makes of a palette mask: its colours, no classes."""
    with Image.open(path) as image:
        image.convert("RGB").save(path)


def with_value(value: int) -> Callable[[Path], None]:
    """One pixel of a mask gets another value."""

    def change(path: Path) -> None:
        with Image.open(path) as image:
            image.putpixel((5, 7), value)
            image.save(path)

    return change


def resized(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((image.width + 2, image.height - 3), Image.Resampling.NEAREST).save(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(path: Path, *, colour_type: int = 2, extra: bytes = b"", size: int = 60_000) -> None:
    """A small PNG, valid chunk by chunk, that claims to be 60,000 pixels a side."""
    header = struct.pack(">IIBBBBB", size, size, 8, colour_type, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def png_text_bomb(path: Path) -> None:
    """A PNG of 20 pixels a side with a comment that unpacks to 200 MB."""
    png_bomb(path, size=20, extra=chunk(b"zTXt", b"Comment\0\0" + zeros(200_000_000)))


def jpeg_bomb(path: Path) -> None:
    """The header of a JPEG claims 60,000 pixels a side."""
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 60_000, 60_000)
    path.write_bytes(data)


def npy_bomb(*shape: int, dtype: str = "<f4") -> Callable[[Path], None]:
    """An array file whose head claims a huge array, of which 64 bytes follow."""

    def change(path: Path) -> None:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
        path.write_bytes(head.getvalue() + bytes(64))

    return change


def geotiff_bomb(bands: int) -> Callable[[Path], None]:
    """A GeoTIFF of 60,000 pixels a side, none of which is in the file."""

    def change(path: Path) -> None:
        import rasterio

        claims = {"count": bands, "height": 60_000, "width": 60_000, "dtype": "uint16", "tiled": True}
        tiles = {"blockxsize": 8192, "blockysize": 8192, "sparse_ok": True, "bigtiff": "yes"}
        place = {"crs": dfc2020.CRS, "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}
        with rasterio.open(path, "w", driver="GTiff", **claims, **tiles, **place):
            pass
        assert path.stat().st_size < 100_000

    return change


@cache
def zeros(size: int) -> bytes:
    """That many zeros, compressed."""
    return zlib.compress(bytes(size), 1)


def mat_bomb(path: Path) -> None:
    """A MATLAB file whose one variable unpacks to 200 MB."""
    data = path.read_bytes()
    path.write_bytes(data[:128] + struct.pack("<II", 15, len(zeros(200_000_000))) + zeros(200_000_000))


def xml_bomb(path: Path) -> None:
    """An annotation whose one object has a name of 3 GB, entity by entity."""
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    head = f'<!DOCTYPE annotation [<!ENTITY e0 "cow">{entities}]>'
    path.write_text(f"{head}<annotation><object><name>&e9;</name></object></annotation>")


def bitflips(path: Path) -> None:
    """Ten bytes of the file are others."""
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(200, len(data), size=10):
        data[place] ^= 0xFF
    path.write_bytes(data)


def read_bands(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    import rasterio

    with rasterio.open(path) as raster:
        return raster.read(), dict(raster.profile)


def written_again(change: Callable[[np.ndarray], np.ndarray], **profile: Any) -> Callable[[Path], None]:
    """A GeoTIFF with other bands, or with another place."""

    def rewrite(path: Path) -> None:
        import rasterio

        bands, old = read_bands(path)
        bands = change(bands)
        shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2]}
        with rasterio.open(path, "w", **old | shape | {"dtype": bands.dtype.name} | profile) as raster:
            raster.write(bands)

    return rewrite


def as_it_is(bands: np.ndarray) -> np.ndarray:
    return bands


def nan_band(bands: np.ndarray) -> np.ndarray:
    """The second band holds no value."""
    bands = bands.astype(np.float32)
    bands[1] = np.nan
    return bands


def unknown_id(bands: np.ndarray) -> np.ndarray:
    bands[0, 4, 4] = 77
    return bands


def array_with(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: np.save(path, change(np.load(path)))


def vrt(path: Path) -> None:
    """A file of another format of GDAL's under the name of a GeoTIFF: it would make GDAL read a file elsewhere."""
    path.write_text(
        '<VRTDataset rasterXSize="24" rasterYSize="24"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        "<SourceFilename>/etc/hostname</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )


def latin1(path: Path) -> None:
    """The first word gets an umlaut, and the file is saved as Latin-1."""
    path.write_bytes(b"B\xe4r" + path.read_bytes())


def copied(source: str, target: str) -> Spoil:
    def change(root: Path) -> None:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / source, root / target)

    return change


def linked_out(path: str) -> Spoil:
    """A file or folder lies outside, and a link to it where it should be."""

    def change(root: Path) -> None:
        outside = root.parent / "outside"
        outside.mkdir()
        (root / path).rename(outside / Path(path).name)
        (root / path).symlink_to(outside / Path(path).name)

    return change


def linked_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.jpg")


def replaced(old: str, new: str, *, more: int = 0) -> Callable[[Path], None]:
    """Text of a file, once."""

    def change(path: Path) -> None:
        data = path.read_bytes()
        assert old.encode() in data
        path.write_bytes(data.replace(old.encode(), new.encode(), 1 + more))

    return change


def line_added(line: str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes().rstrip(b"\n") + f"\n{line}\n".encode())


def both(*changes: Spoil) -> Spoil:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def secret_beside(root: Path) -> None:
    """A photograph beside the data, which a path with ``..`` would reach."""
    Image.new("RGB", (20, 20)).save(root.parent / "secret.jpg")


def huge_coco_image(root: Path) -> None:
    """The instances JSON claims 60,000 pixels a side for an image."""
    path = root / "annotations/instances_train2014.json"
    content = json.loads(path.read_text())
    image = next(image for image in content["images"] if image["id"] == 25)
    image["height"] = image["width"] = 60_000
    path.write_text(json.dumps(content))


TRUNCATED = {
    "truncated JPEG, voc2012": damage(
        "voc2012",
        at(f"{VOC}JPEGImages/2007_000039.jpg", cut),
        "JPEGImages/2007_000039.jpg",
        "no readable image",
        "truncated",
        "replace the file",
        gone=["2007_000039"],
    ),
    "truncated JPEG, coco2014": damage(
        "coco2014", at(f"train2014/{COCO_IMAGE}.jpg", cut), f"{COCO_IMAGE}.jpg", "no readable image", gone=[COCO_IMAGE]
    ),
    "truncated JPEG, ade20k": damage(
        "ade20k",
        at(f"{ADE}images/training/ADE_train_00000002.jpg", cut),
        "images/training/ADE_train_00000002.jpg",
        "no readable image",
        gone=["ADE_train_00000002"],
    ),
    "truncated JPEG, endotect": damage(
        "endotect", at(f"{POLYPS}{POLYP}.jpg", cut), f"polyps/{POLYP}.jpg", "no readable image", gone=[POLYP]
    ),
    "truncated JPEG, folder": damage(
        "folder", at("images/a.jpg", cut), "images/a.jpg", "no readable image", gone=["a"]
    ),
    "truncated JPEG mask, endotect": damage(
        "endotect",
        at(f"segmented-images/masks/{POLYP}.jpg", cut),
        f"masks/{POLYP}.jpg",
        "no readable jpg",
        gone=[POLYP],
    ),
    "truncated BMP, folder": damage("folder", at("images/e.bmp", cut), "images/e.bmp", "no readable", gone=["e"]),
    "truncated mask, voc2012": damage(
        "voc2012",
        at(f"{VOC}SegmentationClass/2007_000042.png", cut),
        "SegmentationClass/2007_000042.png",
        "no readable mask",
        gone=["2007_000042"],
    ),
    "truncated mask of SegmentationClassAug": damage(
        "voc2012",
        at(f"{VOC}SegmentationClassAug/2008_000002.png", cut),
        "SegmentationClassAug/2008_000002.png",
        "no readable mask",
        gone=["2008_000002"],
    ),
    "truncated mask, coco2014": damage(
        "coco2014 masks",
        at(f"SegmentationClass/train2014/{COCO_IMAGE}.png", cut),
        f"SegmentationClass/train2014/{COCO_IMAGE}.png",
        "no readable mask",
        gone=[COCO_IMAGE],
    ),
    "truncated mask, ade20k": damage(
        "ade20k",
        at(f"{ADE}annotations/validation/ADE_val_00000002.png", cut),
        "annotations/validation/ADE_val_00000002.png",
        "no readable mask",
        gone=["ADE_val_00000002"],
    ),
    "truncated mask, folder": damage("folder", at("masks/a.png", cut), "masks/a.png", "no readable mask", gone=["a"]),
    **{
        f"truncated GeoTIFF, dfc2020 {sensor}": damage(
            "dfc2020",
            at(f"{DFC}{sensor}_0/ROIs0000_test_{sensor}_0_p11.tif", cut),
            f"{sensor}_0/ROIs0000_test_{sensor}_0_p11.tif",
            "no readable raster",
            "replace the file",
            gone=["ROIs0000_test_p11"],
        )
        for sensor in ("s2", "s1", "dfc")
    },
    "truncated GeoTIFF, folder": damage(
        "geotiffs", at("images/c.tif", cut), "images/c.tif", "no readable raster", gone=["c"]
    ),
    "truncated GeoTIFF mask, folder": damage(
        "geotiffs", at("masks/c.tif", cut), "masks/c.tif", "no readable raster", gone=["c"]
    ),
    "truncated array, folder": damage(
        "arrays", at("images/c.npy", cut), "images/c.npy", "the file is damaged", gone=["c"]
    ),
    "COCO's JSON cut short": ruin(
        "coco2014",
        at("annotations/instances_val2014.json", cut),
        "annotations/instances_val2014.json",
        "no valid JSON",
        "is the file complete",
    ),
    "VOC's XML cut short": damage(
        "voc2012 xml",
        at(f"{VOC}Annotations/2007_000063.xml", cut),
        "Annotations/2007_000063.xml",
        "no readable XML",
        gone=["2007_000063"],
    ),
    "SBD's mat cut short": damage(
        "sbd", at(f"{SBD}2008_000007.mat", cut), "cls/2008_000007.mat", "no readable MATLAB", gone=["2008_000007"]
    ),
    "SBD's mat with bits flipped": damage(
        "sbd", at(f"{SBD}2008_000007.mat", bitflips), "cls/2008_000007.mat", "no readable MATLAB", gone=["2008_000007"]
    ),
}

EMPTY = {
    "zero bytes, JPEG": damage(
        "voc2012",
        at(f"{VOC}JPEGImages/2007_000039.jpg", emptied),
        "2007_000039.jpg",
        "no readable image",
        gone=["2007_000039"],
    ),
    "zero bytes, mask": damage(
        "ade20k",
        at(f"{ADE}annotations/training/ADE_train_00000001.png", emptied),
        "ADE_train_00000001.png",
        "no readable mask",
        gone=["ADE_train_00000001"],
    ),
    "zero bytes, GeoTIFF": damage(
        "dfc2020",
        at(f"{DFC}s1_0/ROIs0000_test_s1_0_p2.tif", emptied),
        "ROIs0000_test_s1_0_p2.tif",
        "the file is empty",
        gone=["ROIs0000_test_p2"],
    ),
    "zero bytes, first array": damage(
        "arrays", at("images/a.npy", emptied), "images/a.npy", "no readable array", gone=["a"]
    ),
    "zero bytes, mat": damage(
        "sbd", at(f"{SBD}2010_000002.mat", emptied), "2010_000002.mat", "no readable MATLAB", gone=["2010_000002"]
    ),
    "zero bytes, XML": damage(
        "voc2012 xml",
        at(f"{VOC}Annotations/2007_000033.xml", emptied),
        "2007_000033.xml",
        "no readable XML",
        gone=["2007_000033"],
    ),
    "zero bytes, COCO's JSON": ruin(
        "coco2014", at("annotations/instances_train2014.json", emptied), "instances_train2014.json", "no valid JSON"
    ),
    "zero bytes, list, voc2012": ruin("voc2012", at(f"{VOC_LISTS}val.txt", emptied), "split 'val' has no image"),
    "zero bytes, list, folder": ruin("folder", at("splits/val.txt", emptied), "split 'val' has no image"),
    "zero bytes, table": ruin("folder", at("labels.csv", emptied), "labels.csv", "no column"),
}

BOMBS = {
    "PNG bomb": damage(
        "folder", at("images/c.png", png_bomb), "images/c.png", "no readable image", "decompression bomb", gone=["c"]
    ),
    "PNG bomb for a mask": damage(
        "ade20k",
        at(f"{ADE}annotations/training/ADE_train_00000003.png", partial(png_bomb, colour_type=0)),
        "ADE_train_00000003.png",
        "decompression bomb",
        gone=["ADE_train_00000003"],
    ),
    "PNG with a comment of 200 MB": damage(
        "folder", at("images/c.png", png_text_bomb), "images/c.png", "no readable image", "too large", gone=["c"]
    ),
    "JPEG bomb": damage(
        "voc2012",
        at(f"{VOC}JPEGImages/2008_000007.jpg", jpeg_bomb),
        "2008_000007.jpg",
        "decompression bomb",
        gone=["2008_000007"],
    ),
    "JPEG bomb for a mask": damage(
        "endotect",
        at(f"segmented-images/masks/{POLYP}.jpg", jpeg_bomb),
        f"masks/{POLYP}.jpg",
        "decompression bomb",
        gone=[POLYP],
    ),
    "npy bomb": damage(
        "arrays",
        at("images/c.npy", npy_bomb(13, 60_000, 60_000)),
        "images/c.npy",
        "claims 60000x60000 pixels",
        "cut it into tiles",
        gone=["c"],
    ),
    "npy bomb of many bands": damage(
        "arrays",
        at("images/c.npy", npy_bomb(1 << 40, 24, 36)),
        "images/c.npy",
        "more than the 536,870,910 values",
        gone=["c"],
    ),
    "npy bomb below the limit": damage(
        "arrays", at("images/c.npy", npy_bomb(13, 6_000, 6_000)), "images/c.npy", "64 follow", gone=["c"]
    ),
    "npy bomb that comes first": damage(
        "arrays", at("images/a.npy", npy_bomb(13, 60_000, 60_000)), "images/a.npy", "60000x60000", gone=["a"]
    ),
    "npy with Python objects": damage(
        "arrays", at("images/c.npy", npy_bomb(13, 24, 36, dtype="|O")), "images/c.npy", "Python objects", gone=["c"]
    ),
    "GeoTIFF bomb": damage(
        "dfc2020",
        at(f"{DFC}s2_0/ROIs0000_test_s2_0_p12.tif", geotiff_bomb(13)),
        "ROIs0000_test_s2_0_p12.tif",
        "claims 60000x60000 pixels",
        gone=["ROIs0000_test_p12"],
    ),
    "GeoTIFF bomb for a mask": damage(
        "geotiffs", at("masks/c.tif", geotiff_bomb(1)), "masks/c.tif", "claims 60000x60000 pixels", gone=["c"]
    ),
    "SBD's mat with a variable of 200 MB": damage(
        "sbd", at(f"{SBD}2008_000008.mat", mat_bomb), "2008_000008.mat", "far too large", gone=["2008_000008"]
    ),
    "PNG bomb for a mask, coco2014": damage(
        "coco2014 masks",
        at(f"SegmentationClass/train2014/{COCO_IMAGE}.png", partial(png_bomb, colour_type=0)),
        f"{COCO_IMAGE}.png",
        "decompression bomb",
        gone=[COCO_IMAGE],
    ),
    "VOC's XML with an object's name of 3 GB": damage(
        "voc2012 xml",
        at(f"{VOC}Annotations/2007_000063.xml", xml_bomb),
        "Annotations/2007_000063.xml",
        "no readable XML",
        gone=["2007_000063"],
    ),
    "COCO's JSON that claims a huge image": damage(
        "coco2014", huge_coco_image, f"{COCO_IMAGE}.jpg", "instances JSON says 60000x60000", gone=[COCO_IMAGE]
    ),
}

MASKS = {
    "mask as colours, voc2012": damage(
        "voc2012",
        at(f"{VOC}SegmentationClass/2007_000033.png", recoded_as_colours),
        "SegmentationClass/2007_000033.png",
        "'RGB'",
        "palette",
        gone=["2007_000033"],
    ),
    "mask as colours, SegmentationClassAug": damage(
        "voc2012",
        at(f"{VOC}SegmentationClassAug/2010_000002.png", recoded_as_colours),
        "SegmentationClassAug/2010_000002.png",
        "'RGB'",
        gone=["2010_000002"],
    ),
    "mask as colours, coco2014": damage(
        "coco2014 masks",
        at(f"SegmentationClass/train2014/{COCO_IMAGE}.png", recoded_as_colours),
        f"{COCO_IMAGE}.png",
        "'RGB'",
        gone=[COCO_IMAGE],
    ),
    "mask as colours, ade20k": damage(
        "ade20k",
        at(f"{ADE}annotations/training/ADE_train_00000005.png", recoded_as_colours),
        "ADE_train_00000005.png",
        "'RGB'",
        gone=["ADE_train_00000005"],
    ),
    "mask as colours, folder": damage(
        "folder", at("masks/a.png", recoded_as_colours), "masks/a.png", "'RGB'", "palette (P) PNG", gone=["a"]
    ),
    "mask index out of range, voc2012": damage(
        "voc2012",
        at(f"{VOC}SegmentationClass/2007_000033.png", with_value(21)),
        "2007_000033.png",
        "[21]",
        "0 to 20",
        "255 (ignore)",
        gone=["2007_000033"],
    ),
    "mask index out of range, sbd": damage(
        "sbd",
        lambda root: voc2012.write_sbd_mask(root / f"{SBD}2008_000002.mat", np.full((25, 40), 21, np.uint8)),
        "2008_000002.mat",
        "[21]",
        "0 to 20",
        gone=["2008_000002"],
    ),
    "mask index out of range, coco2014": damage(
        "coco2014 masks",
        at(f"SegmentationClass/train2014/{COCO_IMAGE}.png", with_value(200)),
        f"{COCO_IMAGE}.png",
        "[200]",
        "0 to 80",
        gone=[COCO_IMAGE],
    ),
    "masks of both encodings, coco2014": ruin(
        "coco2014 masks",
        at(f"SegmentationClass/train2014/{COCO_IMAGE}.png", with_value(90)),
        f"{COCO_IMAGE}.png",
        "two encodings",
        "make all of one kind",
    ),
    "mask index out of range, ade20k": damage(
        "ade20k",
        at(f"{ADE}annotations/training/ADE_train_00000005.png", with_value(151)),
        "ADE_train_00000005.png",
        "[151]",
        "to 150",
        gone=["ADE_train_00000005"],
    ),
    "mask index out of range, dfc2020": damage(
        "dfc2020",
        at(f"{DFC}dfc_0/ROIs0000_test_dfc_0_p13.tif", written_again(unknown_id)),
        "ROIs0000_test_dfc_0_p13.tif",
        "[77]",
        "0 to 10",
        gone=["ROIs0000_test_p13"],
    ),
    "mask index out of range, folder": damage(
        "folder", at("masks/c.png", with_value(3)), "masks/c.png", "[3]", "0 to 2", gone=["c"]
    ),
    "mask index out of range, GeoTIFF": damage(
        "geotiffs", at("masks/c.tif", written_again(unknown_id)), "masks/c.tif", "[77]", "0 to 2", gone=["c"]
    ),
    "mask of another size, voc2012": damage(
        "voc2012",
        at(f"{VOC}SegmentationClass/2007_000033.png", resized),
        "2007_000033.png",
        "48x32",
        "46x35",
        gone=["2007_000033"],
    ),
    "mask of another size, endotect": damage(
        "endotect",
        at(f"segmented-images/masks/{POLYP}.jpg", resized),
        f"masks/{POLYP}.jpg",
        "44x33",
        "42x36",
        "one size",
        gone=[POLYP],
    ),
    "mask of another size, sbd": damage(
        "sbd",
        lambda root: voc2012.write_sbd_mask(root / f"{SBD}2008_000002.mat", np.ones((40, 25), np.uint8)),
        "2008_000002.mat",
        "25x40",
        "40x25",
        gone=["2008_000002"],
    ),
}

RASTERS = {
    "missing band, dfc2020": damage(
        "dfc2020",
        at(f"{DFC}s2_0/ROIs0000_test_s2_0_p10.tif", written_again(lambda bands: bands[:12])),
        "ROIs0000_test_s2_0_p10.tif",
        "12 bands, expected 13",
        gone=["ROIs0000_test_p10"],
    ),
    "missing band, folder": damage(
        "geotiffs",
        at("images/c.tif", written_again(lambda bands: bands[:3])),
        "images/c.tif",
        "3 bands, expected 4",
        gone=["c"],
    ),
    "missing band, array": damage(
        "arrays",
        at("images/c.npy", array_with(lambda bands: bands[:12])),
        "images/c.npy",
        "12 bands, expected 13",
        gone=["c"],
    ),
    "NaN band, dfc2020": damage(
        "dfc2020",
        at(f"{DFC}s1_0/ROIs0000_test_s1_0_p10.tif", written_again(nan_band)),
        "ROIs0000_test_s1_0_p10.tif",
        "band 2 holds no value",
        gone=["ROIs0000_test_p10"],
    ),
    "NaN band, folder": damage(
        "geotiffs", at("images/c.tif", written_again(nan_band)), "images/c.tif", "band 2 holds no value", gone=["c"]
    ),
    "NaN band, array": damage(
        "arrays", at("images/c.npy", array_with(nan_band)), "images/c.npy", "band 2 holds no value", gone=["c"]
    ),
    "mixed CRS, dfc2020 s1": damage(
        "dfc2020",
        at(f"{DFC}s1_0/ROIs0000_test_s1_0_p14.tif", written_again(as_it_is, crs="EPSG:32633")),
        "ROIs0000_test_s2_0_p14.tif",
        "partner s1",
        "EPSG:32632",
        "EPSG:32633",
        "warp one to the other",
        gone=["ROIs0000_test_p14"],
    ),
    "mixed CRS, dfc2020 land cover": damage(
        "dfc2020",
        at(f"{DFC}dfc_0/ROIs0000_test_dfc_0_p14.tif", written_again(as_it_is, crs="EPSG:4326")),
        "ROIs0000_test_s2_0_p14.tif",
        "partner dfc",
        "EPSG:4326",
        gone=["ROIs0000_test_p14"],
    ),
    "mixed CRS, folder": damage(
        "geotiffs",
        at("masks/c.tif", written_again(as_it_is, crs="EPSG:32633")),
        "images/c.tif",
        "partner mask",
        "EPSG:32633",
        gone=["c"],
    ),
    "partner of another size, dfc2020": damage(
        "dfc2020",
        at(f"{DFC}dfc_0/ROIs0000_test_dfc_0_p14.tif", written_again(lambda bands: bands[:, 1:])),
        "ROIs0000_test_s2_0_p14.tif",
        "differ in size",
        "(23, 24) (dfc)",
        gone=["ROIs0000_test_p14"],
    ),
    "another format of GDAL's": damage(
        "dfc2020",
        at(f"{DFC}s2_0/ROIs0000_test_s2_0_p10.tif", vrt),
        "ROIs0000_test_s2_0_p10.tif",
        "no readable raster",
        gone=["ROIs0000_test_p10"],
    ),
}

NAMES = {
    "two images of one key, folder": damage(
        "folder",
        copied("images/a.jpg", "images/b_v1.jpg"),
        "'b.v1.jpg' and 'b_v1.jpg'",
        "one key ('b_v1')",
        "rename one",
        gone=["b_v1"],
    ),
    "two images of one key, voc2012": damage(
        "voc2012",
        copied(f"{VOC}JPEGImages/2007_000039.jpg", f"{VOC}JPEGImages/2007_000039.jpeg"),
        "2007_000039.jpg",
        "2007_000039.jpeg",
        "remove one",
        gone=["2007_000039"],
    ),
    "two images of one key, endotect": damage(
        "endotect",
        copied(f"{POLYPS}{POLYP}.jpg", f"labeled-images/lower-gi-tract/anatomical-landmarks/cecum/{POLYP}.jpg"),
        f"polyps/{POLYP}.jpg",
        f"cecum/{POLYP}.jpg",
        "remove one",
        gone=[POLYP],
    ),
    "two images of one key, dfc2020": damage(
        "dfc2020",
        copied(f"{DFC}s2_0/ROIs0000_test_s2_0_p13.tif", f"{DFC}s2_copy/ROIs0000_test_s2_0_p13.tif"),
        "patch 13",
        "s2_0/ROIs0000_test_s2_0_p13.tif",
        "s2_copy/ROIs0000_test_s2_0_p13.tif",
        "remove one",
        gone=["ROIs0000_test_p13"],
    ),
    "image in both lists": ruin(
        "folder", at("splits/val.txt", line_added("c")), "splits", "in train and in val", "'c'"
    ),
    **{
        f"no UTF-8, {path}": ruin(data, at(path, latin1), path, "no UTF-8 text", "save it as UTF-8")
        for data, path in (
            ("folder", "labels.csv"),
            ("folder", "classes.txt"),
            ("folder", "splits/train.txt"),
            ("voc2012", f"{VOC_LISTS}train_aug.txt"),
            ("sbd", "VOCdevkit/VOCaug/dataset/train.txt"),
            ("ade20k", f"{ADE}objectInfo150.txt"),
            ("endotect", "labeled-images/image-labels.csv"),
            ("endotect folds", "official_splits/2_fold_split.csv"),
        )
    },
    "listed image missing, voc2012": damage(
        "voc2012",
        at(f"{VOC}JPEGImages/2008_000002.jpg", Path.unlink),
        "JPEGImages/2008_000002.jpg",
        "missing, but listed",
        gone=["2008_000002"],
    ),
    "listed image missing, coco2014": damage(
        "coco2014",
        at(f"train2014/{COCO_IMAGE}.jpg", Path.unlink),
        f"train2014/{COCO_IMAGE}.jpg",
        "instances_train2014.json lists it",
        gone=[COCO_IMAGE],
    ),
    "listed image missing, endotect": damage(
        "endotect", at(f"{POLYPS}{POLYP}.jpg", Path.unlink), "image-labels.csv", f"no image {POLYP}.jpg", gone=[POLYP]
    ),
    "listed image missing, folder": damage(
        "folder", at("images/c.png", Path.unlink), "labels.csv line 4", "no image 'c'", "remove the line", gone=["c"]
    ),
    "partner missing, ade20k": damage(
        "ade20k",
        at(f"{ADE}annotations/training/ADE_train_00000001.png", Path.unlink),
        "images/training/ADE_train_00000001.jpg",
        "no partner",
        gone=["ADE_train_00000001"],
    ),
    "partner missing, dfc2020": damage(
        "dfc2020",
        at(f"{DFC}dfc_0/ROIs0000_test_dfc_0_p13.tif", Path.unlink),
        "ROIs0000_test_s2_0_p13.tif",
        "ROIs0000_test_dfc_0_p13.tif is missing",
        gone=["ROIs0000_test_p13"],
    ),
    "partner missing, voc2012": damage(
        "voc2012",
        at(f"{VOC}SegmentationClass/2007_000032.png", Path.unlink),
        "SegmentationClass/2007_000032.png",
        "missing, but the devkit has masks for all images of its lists",
        gone=["2007_000032"],
    ),
    "no labels, voc2012": damage(
        "voc2012",
        at(f"{VOC}SegmentationClass/2007_000061.png", Path.unlink),
        "JPEGImages/2007_000061.jpg",
        "no mask in SegmentationClassAug, raw SBD or SegmentationClass",
        gone=["2007_000061"],
    ),
    "no labels, voc2012 xml": damage(
        "voc2012 xml",
        at(f"{VOC}Annotations/2007_000061.xml", Path.unlink),
        "JPEGImages/2007_000061.jpg",
        "no XML file in Annotations",
        gone=["2007_000061"],
    ),
    "path out of the folder, voc2012": damage(
        "voc2012",
        both(secret_beside, at(f"{VOC_LISTS}train_aug.txt", line_added("../../../../secret"))),
        "JPEGImages/secret.jpg",
        "missing, but listed",
    ),
    "path out of the folder, labels.csv": damage(
        "folder",
        both(secret_beside, at("labels.csv", line_added("../../secret.jpg,sea"))),
        "labels.csv line 11",
        "no image '../../secret.jpg'",
    ),
    "path out of the folder, split": damage(
        "folder",
        both(secret_beside, at("splits/train.txt", line_added("../secret.jpg"))),
        "splits/train.txt line 7",
        "no image '../secret.jpg'",
    ),
    "path out of the folder, coco2014": damage(
        "coco2014",
        both(
            secret_beside,
            at("annotations/instances_train2014.json", replaced(f'"{COCO_IMAGE}.jpg"', '"../../secret.jpg"')),
        ),
        "train2014/secret.jpg",
        "missing",
        gone=[COCO_IMAGE],
    ),
    "path out of the folder, endotect": damage(
        "endotect folds",
        both(
            secret_beside, at("labeled-images/image-labels.csv", line_added("../../secret,Lower GI,cecum,anatomical"))
        ),
        "image-labels.csv",
        "no image ../../secret.jpg",
    ),
}

LINKS = {
    "link to a file outside, voc2012": damage(
        "voc2012",
        linked_out(f"{VOC}JPEGImages/2007_000039.jpg"),
        "JPEGImages/2007_000039.jpg",
        "a symbolic link out of the data folder",
        "outside/2007_000039.jpg",
        gone=["2007_000039"],
        problems=2,  # the link, and the image that is missing without it
    ),
    "link to a file outside, folder": damage(
        "folder",
        linked_out("images/a.jpg"),
        "images/a.jpg",
        "a symbolic link out",
        "put the files themselves there",
        gone=["a"],
        problems=2,
    ),
    "link to a mask outside, folder": damage("folder", linked_out("masks/a.png"), "masks/a.png", "a symbolic link out"),
    "link to a raster outside, dfc2020": damage(
        "dfc2020",
        linked_out(f"{DFC}s2_0/ROIs0000_test_s2_0_p2.tif"),
        "ROIs0000_test_s2_0_p2.tif",
        "a symbolic link out",
        gone=["ROIs0000_test_p2"],
        problems=2,
    ),
    "link that leads nowhere": damage(
        "folder", at("images/a.jpg", linked_nowhere), "images/a.jpg", "leads nowhere", gone=["a"], problems=2
    ),
    "link to a list outside": ruin(
        "folder", linked_out("splits/val.txt"), "splits/val.txt", "a symbolic link out of the data folder"
    ),
    "link to a folder outside, folder": ruin(
        "folder", linked_out("images"), "images", "a symbolic link out of the data folder"
    ),
    "link to a folder outside, voc2012": ruin(
        "voc2012", linked_out(f"{VOC}JPEGImages"), "JPEGImages", "a symbolic link out of the data folder"
    ),
    "link to a folder outside, ade20k": ruin(
        "ade20k", linked_out(f"{ADE}images/validation"), "images/validation", "a symbolic link out of the data folder"
    ),
    "link to a folder outside, coco2014": ruin(
        "coco2014", linked_out("train2014"), "train2014", "a symbolic link out of the data folder"
    ),
}

DAMAGES = TRUNCATED | EMPTY | BOMBS | MASKS | RASTERS | NAMES | LINKS


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


@pytest.mark.parametrize("name", DAMAGES)
def test_one_error_names_the_file(spoilt: Callable[[Damage], Path], tmp_path: Path, name: str) -> None:
    case = DAMAGES[name]
    message = refusal(case, spoilt(case), tmp_path / "out")
    assert ("preprocess.on_error: skip" in message) == (case.gone is not None), "skip is offered where it helps"


@pytest.mark.parametrize("name", DAMAGES)
def test_skipping_loses_that_sample_and_no_other(
    spoilt: Callable[[Damage], Path], good: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    case = DAMAGES[name]
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
    for number, (name, case) in enumerate(BOMBS.items()):
        shutil.copytree(good(case.data), tmp_path / str(number))
        case.spoil(tmp_path / str(number))
        jobs.append((name, SETS[case.data].config.model_dump(), str(tmp_path / str(number))))
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
    names = ("truncated JPEG, folder", "mask index out of range, folder", "truncated BMP, folder")
    for name in names:
        DAMAGES[name].spoil(tmp_path / "raw")
    found = packed(SETS["folder"].config, tmp_path / "raw", tmp_path / "out", workers=2, on_error="skip")
    assert [problem.path for problem in found["train"].problems] == ["images/a.jpg", "images/c.png", "images/e.bmp"]
    assert ShardFolder.open(tmp_path / "out").split("train").keys == ["b_v1", "d", "f"]


# What is wrong with shards that others have made: `ctm unpack` writes files named by the keys in them.


def edit_records(shards: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the first record of train, with digest and size in the index to match: what an attacker would do."""
    first, *rest = (shards / "train.jsonl").read_text().splitlines()
    record = json.loads(first)
    change(record)
    data = "\n".join([json.dumps(record), *rest, ""]).encode()
    (shards / "train.jsonl").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    edit_index(shards, lambda index: index["splits"]["train"]["records"].update(bytes=len(data), sha256=sha256))


def edit_index(shards: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((shards / "index.json").read_text())
    change(index)
    (shards / "index.json").write_text(json.dumps(index))


def set_key(key: str) -> Spoil:
    return lambda shards: edit_records(shards, lambda record: record.update(key=key))


def set_split(name: str) -> Spoil:
    return lambda shards: edit_index(shards, lambda index: index["splits"].update({name: index["splits"].pop("train")}))


def set_shard(name: str) -> Spoil:
    def change(shards: Path) -> None:
        shutil.copy(shards / "train-00000.tar", shards.parent / "train-00000.tar")
        edit_index(shards, lambda index: index["splits"]["train"]["shards"][0].update(file=name))

    return change


ATTACKS = {
    "key up": (set_key("../../stolen"), "'../../stolen' is no safe file name"),
    "key down": (set_key("sub/stolen"), "'sub/stolen' is no safe file name"),
    "absolute key": (set_key("/tmp/stolen"), "'/tmp/stolen' is no safe file name"),
    "key with a line break": (set_key("stolen\n"), "is no safe file name"),
    "key of a dot": (set_key("."), "is no safe file name"),
    "split up": (set_split("../stolen"), "index.json is damaged"),
    "split of dots": (set_split(".."), "index.json is damaged"),
    "split with a line break": (set_split("train\n"), "index.json is damaged"),
    "shard up": (set_shard("../train-00000.tar"), "index.json is damaged"),
    "absolute shard": (set_shard("/tmp/train-00000.tar"), "index.json is damaged"),
    "offset behind the end": (
        lambda shards: edit_records(shards, lambda record: record["members"].update({"mask.png": [1 << 40, 100]})),
        "damaged",
    ),
    "huge member": (
        lambda shards: edit_records(shards, lambda record: record["members"].update({"mask.png": [0, 1 << 50]})),
        "train.jsonl",
    ),
    "shard that is not there": (
        lambda shards: edit_records(shards, lambda record: record.update(shard=7)),
        "train.jsonl",
    ),
    "record without key": (lambda shards: edit_records(shards, lambda record: record.pop("key")), "train.jsonl"),
    "label of no class": (
        lambda shards: edit_records(shards, lambda record: record.update(labels=[99])),
        "train.jsonl",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_unpacking_foreign_shards_writes_nothing_outside(
    good: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    packed(SETS["folder"].config, good("folder"), tmp_path / "in" / "shards")
    attack, message = ATTACKS[name]
    attack(tmp_path / "in" / "shards")
    (tmp_path / "work" / "deep").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactError) as caught:
        write_masks(tmp_path / "in" / "shards", tmp_path / "work" / "deep" / "out")
    assert message in str(caught.value)
    assert str(tmp_path / "in" / "shards") in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/stolen.png").exists()
