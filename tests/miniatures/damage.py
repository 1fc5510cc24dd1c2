"""What can happen to a file of raw data: every function here does one damage to the file at a path, or gives one."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.miniatures import dfc2020

Change = Callable[[Path], object]

# Bytes.


def cut(path: Path) -> None:
    """The file ends in the middle, as a download that broke off."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def holding(data: bytes) -> Change:
    """The file has other contents."""
    return lambda path: path.write_bytes(data)


def bitflips(path: Path) -> None:
    """Ten bytes of the file are others."""
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(200, len(data), size=10):
        data[place] ^= 0xFF
    path.write_bytes(data)


# Files and folders.


def copied_to(target: str) -> Change:
    """A copy lies at another place, beginning from the file's own folder."""

    def change(path: Path) -> None:
        (path.parent / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, path.parent / target)

    return change


def doubled(path: Path) -> None:
    """Another file has the same name but for the spelling of the suffix."""
    shutil.copy(path, path.with_suffix({".jpg": ".jpeg", ".png": ".PNG"}[path.suffix]))


def all_renamed(rename: Callable[[Path], Path]) -> Change:
    """All files of a folder have other names."""
    return lambda folder: [path.rename(rename(path)) for path in folder.iterdir()]


def flattened(root: Path) -> None:
    """DFC2020's imagery without its labels, in flat folders."""
    for sensor in ("s1", "s2"):
        (root / "ROIs0000_test" / f"{sensor}_0").rename(root / sensor)
    for season in ("ROIs0000_test", "ROIs0000_validation"):
        shutil.rmtree(root / season)


def linked_out(path: Path) -> None:
    """A file or folder lies outside of the root, and a link to it where it should be."""
    outside = next(folder for folder in path.parents if folder.name == "raw").with_name("outside")
    outside.mkdir()
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


def linked_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.jpg")


# Text.


def latin1(path: Path) -> None:
    """The first word gets an umlaut, and the file is saved as Latin-1."""
    path.write_bytes(b"B\xe4r" + path.read_bytes())


def replaced(old: str, new: str) -> Change:
    """Text of a file, once."""

    def change(path: Path) -> None:
        data = path.read_bytes()
        assert old.encode() in data
        path.write_bytes(data.replace(old.encode(), new.encode(), 1))

    return change


def line_added(line: str) -> Change:
    return lambda path: path.write_bytes(path.read_bytes().rstrip(b"\n") + f"\n{line}\n".encode())


def first_row_repeated(path: Path) -> None:
    """The first row of a table stands at its end again."""
    text = path.read_text()
    path.write_text(text + text.splitlines()[1])


def huge_coco_image(path: Path) -> None:
    """The instances JSON claims 60,000 pixels a side for an image."""
    content = json.loads(path.read_text())
    image = next(image for image in content["images"] if image["id"] == 25)
    image["height"] = image["width"] = 60_000
    path.write_text(json.dumps(content))


def xml_bomb(path: Path) -> None:
    """An annotation whose one object has a name of 3 GB, entity by entity."""
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    head = f'<!DOCTYPE annotation [<!ENTITY e0 "cow">{entities}]>'
    path.write_text(f"{head}<annotation><object><name>&e9;</name></object></annotation>")


# Pictures and masks.


def drawn(mode: str, size: tuple[int, int], *, suffix: str | None = None) -> Change:
    """A black picture of a colour mode, width and height, perhaps under another suffix."""

    def change(path: Path) -> None:
        path.unlink()
        Image.new(mode, size).save(path if suffix is None else path.with_suffix(suffix))

    return change


def recoded_as_colours(path: Path) -> None:
    """What a viewer makes of a palette mask: its colours, no classes."""
    with Image.open(path) as image:
        image.convert("RGB").save(path)


def with_value(value: int) -> Change:
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


def grey_png_bomb(path: Path) -> None:
    png_bomb(path, colour_type=0)


def png_text_bomb(path: Path) -> None:
    """A PNG of 20 pixels a side with a comment that unpacks to 200 MB."""
    png_bomb(path, size=20, extra=chunk(b"zTXt", b"Comment\0\0" + zeros(200_000_000)))


def jpeg_bomb(path: Path) -> None:
    """The header of a JPEG claims 60,000 pixels a side."""
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 60_000, 60_000)
    path.write_bytes(data)


@cache
def zeros(size: int) -> bytes:
    """That many zeros, compressed."""
    return zlib.compress(bytes(size), 1)


def mat_bomb(path: Path) -> None:
    """A MATLAB file whose one variable unpacks to 200 MB."""
    data = path.read_bytes()
    path.write_bytes(data[:128] + struct.pack("<II", 15, len(zeros(200_000_000))) + zeros(200_000_000))


# Arrays and rasters.


def npy_bomb(*shape: int, dtype: str = "<f4") -> Change:
    """An array file whose head claims a huge array, of which 64 bytes follow."""

    def change(path: Path) -> None:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
        path.write_bytes(head.getvalue() + bytes(64))

    return change


def array_with(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda path: np.save(path, change(np.load(path)))


def zeros_of(*shape: int, dtype: str = "f4") -> Change:
    """An array of zeros."""
    return lambda path: np.save(path, np.zeros(shape, dtype=dtype))


def geotiff_bomb(bands: int) -> Change:
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


def written_again(change: Callable[[np.ndarray], np.ndarray] = lambda bands: bands, **profile: Any) -> Change:
    """A GeoTIFF with other bands, or with another place."""

    def rewrite(path: Path) -> None:
        import rasterio

        with rasterio.open(path) as raster:
            bands, old = change(raster.read()), dict(raster.profile)
        shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2]}
        with rasterio.open(path, "w", **old | shape | {"dtype": bands.dtype.name} | profile) as raster:
            raster.write(bands)

    return rewrite


def moved(path: Path) -> None:
    """A GeoTIFF lies a pixel further east."""
    import rasterio

    with rasterio.open(path, "r+") as raster:
        old = raster.transform
        raster.transform = rasterio.Affine(old.a, old.b, old.c + old.a, old.d, old.e, old.f)


def nan_band(bands: np.ndarray) -> np.ndarray:
    """The second band holds no value."""
    bands = bands.astype(np.float32)
    bands[1] = np.nan
    return bands


def unknown_id(bands: np.ndarray) -> np.ndarray:
    bands[0, 4, 4] = 77
    return bands


def vrt(path: Path) -> None:
    """A file of another format of GDAL's under the name of a GeoTIFF: it would make GDAL read a file elsewhere."""
    path.write_text(
        '<VRTDataset rasterXSize="24" rasterYSize="24"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        "<SourceFilename>/etc/hostname</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
