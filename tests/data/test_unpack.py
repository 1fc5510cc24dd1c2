"""Masks as palette PNG files and as GeoTIFFs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctm.data.config import DatasetConfig
from ctm.data.sample import Georeference, encode_mask
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import TRUTH, ShardFolder
from ctm.data.unpack import write_masks
from ctm.errors import ArtifactError
from tests.miniatures.dfc2020 import write_dfc2020
from tests.miniatures.samples import packed

MASK = np.array([[0, 2], [255, 1]], dtype=np.uint8)


def test_writes_one_palette_png_for_every_mask(shards: ShardFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write_masks(shards.path, out) == 4
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == [
        "train/a.png",
        "train/b.png",
        "train/c.png",
        "val/d.png",
    ]
    with Image.open(out / "train" / "b.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), shards.split("train").mask(2, TRUTH))
        colours = np.array(image.getpalette()).reshape(-1, 3)
        np.testing.assert_array_equal(colours, shards.classes.palette()[: len(colours)])
        assert image.convert("RGB").getpixel((0, 0)) == (224, 224, 192)


def write_pseudomasks(shards: ShardFolder, folder: Path, *places: Georeference | None) -> None:
    """A pseudo-mask for each place."""
    with ShardWriter(folder, "train", classes=shards.classes) as writer:
        for number, place in enumerate(places):
            members = {"png": encode_mask(MASK)}
            writer.add(f"m{number}", members, labels=(0,), height=2, width=2, georeference=place)
    index = ShardIndex(kind="masks", classes=shards.classes.names, background=None, splits={"train": writer.entry})
    write_index(folder, index)


def test_writes_pseudomasks(shards: ShardFolder, tmp_path: Path) -> None:
    write_pseudomasks(shards, tmp_path / "pseudo", None)
    assert write_masks(tmp_path / "pseudo", tmp_path / "out", format="png") == 1
    with Image.open(tmp_path / "out" / "train" / "m0.png") as image:
        np.testing.assert_array_equal(np.asarray(image), MASK)


def test_geotiffs_lie_where_their_images_do(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra 'data'")
    write_dfc2020(tmp_path / "raw")
    packed(DatasetConfig(format="dfc2020", root="raw"), tmp_path / "raw", tmp_path / "shards")
    out = tmp_path / "out"
    assert write_masks(tmp_path / "shards", out, format="geotiff") == 9
    assert len([path for path in out.rglob("*") if path.is_file()]) == 9
    shards = ShardFolder.open(tmp_path / "shards")
    for name in shards.splits:
        split = shards.split(name)
        for index, key in enumerate(split.keys):
            season, _, number = key.rpartition("_")
            suffix = "0" if name == "train" else "validation"
            source = tmp_path / "raw" / season / f"dfc_{suffix}" / f"{season}_dfc_0_{number}.tif"
            with rasterio.open(source) as expected, rasterio.open(out / name / f"{key}.tif") as found:
                assert (found.crs, found.transform) == (expected.crs, expected.transform)
                assert (found.count, found.dtypes, found.nodata) == (1, ("uint8",), 255)
                assert found.compression == rasterio.enums.Compression.lzw
                mask, ids = found.read(1), expected.read(1)
                np.testing.assert_array_equal(mask, split.mask(index, TRUTH))
                np.testing.assert_array_equal(mask == 7, ids == 10)  # water
                np.testing.assert_array_equal(mask == 255, np.isin(ids, (0, 3, 8)))
                colours = found.colormap(1)
                assert all(colours[k][:3] == tuple(shards.classes.palette()[k]) for k in range(8))


def test_an_unusual_reference_system_and_a_turned_image_survive(shards: ShardFolder, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra 'data'")
    turned = (7.0, 7.0, 1e6, 7.0, -7.0, 2e6)
    crs = rasterio.crs.CRS.from_string("+proj=laea +lat_0=46 +lon_0=7 +datum=WGS84 +units=m")
    place = Georeference(crs=crs.to_string(), transform=turned)
    write_pseudomasks(shards, tmp_path / "pseudo", place)
    assert write_masks(tmp_path / "pseudo", tmp_path / "out", format="geotiff") == 1
    with rasterio.open(tmp_path / "out" / "train" / "m0.tif") as found:
        assert found.crs == crs
        assert tuple(found.transform)[:6] == turned
        np.testing.assert_array_equal(found.read(1), MASK)


def test_an_image_without_place_gives_no_geotiff_and_nothing_is_written(shards: ShardFolder, tmp_path: Path) -> None:
    pytest.importorskip("rasterio", reason="needs the extra 'data'")
    place = Georeference(crs="EPSG:32632", transform=(10, 0, 0, 0, -10, 0))
    write_pseudomasks(shards, tmp_path / "pseudo", place, None)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ArtifactError, match=r"'m1' of split 'train': its image does not say where.*use --format png"):
        write_masks(tmp_path / "pseudo", tmp_path / "out", format="geotiff")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_with_files_is_never_replaced_and_an_empty_one_may_be(shards: ShardFolder, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(ArtifactError, match=r"exists and is no empty folder; name a new one"):
            write_masks(shards.path, taken)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert write_masks(shards.path, tmp_path / "empty") == 4


def test_data_without_masks_say_so(folder: Path, config: DatasetConfig, tmp_path: Path) -> None:
    shutil.rmtree(folder / "masks")
    packed(config, folder, tmp_path / "plain")
    with pytest.raises(ArtifactError, match=r"no sample of .*plain has a mask"):
        write_masks(tmp_path / "plain", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"index.json is missing"):
        write_masks(tmp_path, tmp_path / "out")


# Shards that others have made: the files are named by the keys in them.


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


def set_key(key: str) -> Callable[[Path], object]:
    return lambda shards: edit_records(shards, lambda record: record.update(key=key))


def set_split(name: str) -> Callable[[Path], object]:
    return lambda shards: edit_index(shards, lambda index: index["splits"].update({name: index["splits"].pop("train")}))


def set_shard(name: str) -> Callable[[Path], object]:
    def change(shards: Path) -> None:
        shutil.copy(shards / "train-00000.tar", shards.parent / "train-00000.tar")
        edit_index(shards, lambda index: index["splits"]["train"]["shards"][0].update(file=name))

    return change


def set_member(*place: int) -> Callable[[Path], object]:
    return lambda shards: edit_records(shards, lambda record: record["members"].update({"mask.png": place}))


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
    "offset behind the end": (set_member(1 << 40, 100), "damaged"),
    "huge member": (set_member(0, 1 << 50), "train.jsonl"),
    "shard that is not there": (lambda shards: edit_records(shards, lambda r: r.update(shard=7)), "train.jsonl"),
    "record without key": (lambda shards: edit_records(shards, lambda r: r.pop("key")), "train.jsonl"),
    "label of no class": (lambda shards: edit_records(shards, lambda r: r.update(labels=[99])), "train.jsonl"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_unpacking_foreign_shards_writes_nothing_outside(
    folder: Path, config: DatasetConfig, tmp_path: Path, name: str
) -> None:
    packed(config, folder, tmp_path / "in" / "shards")
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
