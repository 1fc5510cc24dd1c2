"""The plain folder layout: what it reads, what it leaves out, and one clear error for each kind of bad input."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctm.data.config import DatasetConfig
from ctm.data.sample import decode_image
from ctm.data.shards import TRUTH, ShardFolder
from ctm.errors import DataError
from tests.miniatures.dfc2020 import write_raster
from tests.miniatures.folder import CLASSES, NAMES, write_folder, write_image
from tests.miniatures.samples import keys, opened, packed, read, read_all

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
REAL = SHARED / "msrc21"
SENTINEL2 = SHARED / "sentinel2_sample" / "s2_l1c_13band.npz"

GRASS, SAND, SEA = range(3)
MASK = np.ones((1, 24, 36), dtype=np.uint8)
KEYS = {"train": ["a", "b_v1", "c", "d", "e", "f"], "val": ["g", "h", "i"]}


@pytest.fixture
def config() -> DatasetConfig:
    return DatasetConfig(format="folder", root="raw")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_folder(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    write_folder(tmp_path / "raw", images="arrays")
    return tmp_path / "raw"


@pytest.fixture
def geotiffs(tmp_path: Path) -> Path:
    write_folder(tmp_path / "raw", images="geotiffs")
    return tmp_path / "raw"


def change(root: Path, file: str, old: str, new: str) -> None:
    data = (root / file).read_bytes()
    assert old.encode() in data
    (root / file).write_bytes(data.replace(old.encode(), new.encode()))


def only(root: Path, *names: str) -> None:
    """Keeps these names in train and the masks out."""
    shutil.rmtree(root / "masks")
    (root / "splits" / "train.txt").write_text("\n".join(names))


def test_reads_images_labels_masks_and_splits(raw: Path, config: DatasetConfig) -> None:
    dataset = opened(config, raw)
    assert dataset.classes.names == CLASSES
    assert (dataset.channels, dataset.scale, dataset.problems) == (3, 1 / 255, ())
    assert keys(dataset) == KEYS
    samples = read_all(config, raw)
    b = samples["b_v1"]
    assert (b.key, b.extension, b.height, b.width, b.labels) == ("b_v1", "jpg", 32, 32, (SAND, SEA))
    assert b.image == (raw / "images" / "b.v1.jpg").read_bytes()
    assert b.mask is not None
    assert sorted(np.unique(b.mask)) == [SAND, SEA, 255]
    assert samples["i"].mask is None
    assert {key: sample.extension for key, sample in samples.items()}["c"] == "png"
    assert all(sample.georeference is None for sample in samples.values())
    notes = {key: sample.notes for key, sample in samples.items() if sample.notes}
    assert notes == {"c": ("colour mode L, which becomes RGB",), "d": ("colour mode P, which becomes RGB",)}


def test_images_keep_the_order_of_the_split_files(raw: Path, config: DatasetConfig) -> None:
    (raw / "splits" / "train.txt").write_text("c\na.jpg\n\nb.v1\n")
    (raw / "images" / "more").mkdir()
    shutil.copy(raw / "images" / "a.jpg", raw / "images" / "more" / "z.jpg")
    shutil.copy(raw / "masks" / "a.png", raw / "masks" / "a_old.png")
    dataset = opened(config, raw)
    assert keys(dataset)["train"] == ["c", "a", "b_v1"]
    assert dataset.left_out == {
        "in no list of splits/": 3,
        "masks of no image": 1,
        "in folders below images/": 1,
    }


def test_the_tune_list_names_train_images(raw: Path, config: DatasetConfig) -> None:
    assert opened(config, raw).tune == frozenset()
    (raw / "splits" / "tune.txt").write_text("c\n\nb.v1.jpg\n")
    assert opened(config, raw).tune == {"c", "b_v1"}
    assert keys(opened(config, raw)) == KEYS, "they stay train images"


def test_background_is_a_mask_value_but_no_label(raw: Path, config: DatasetConfig) -> None:
    change(raw, "labels.csv", "d,grass;sand", "d,grass")
    with_background = config.model_copy(update={"background": "grass"})
    assert opened(with_background, raw).classes.tokens == (SAND, SEA)
    samples = read_all(with_background, raw)
    assert samples["a"].labels == (SAND,)
    assert samples["d"].labels == (), "an image of background alone has no label"


def test_without_splits_a_hash_of_the_name_decides(raw: Path, config: DatasetConfig) -> None:
    shutil.rmtree(raw / "splits")
    shutil.rmtree(raw / "masks")
    names = [f"x{number}" for number in range(200)]
    for name in names:
        shutil.copy(raw / "images" / "a.jpg", raw / "images" / f"{name}.jpg")
    with (raw / "labels.csv").open("a") as file:
        file.writelines(f"{name},sea\n" for name in names)
    splits = keys(opened(config, raw))
    assert set(splits["train"]).isdisjoint(splits["val"])
    assert 0.1 < len(splits["val"]) / 209 < 0.3
    (raw / "images" / "x0.jpg").unlink()
    change(raw, "labels.csv", "x0,sea\n", "")
    again = keys(opened(config, raw))
    assert [key for key in splits["val"] if key != "x0"] == again["val"], "other images stay where they were"


def test_labels_may_have_a_byte_order_mark_more_columns_and_quotes(raw: Path, config: DatasetConfig) -> None:
    rows = "".join(f',{name},"sea; sand"\r\n' for names in NAMES.values() for name in names if name != "a")
    (raw / "labels.csv").write_bytes(
        b"\xef\xbb\xbf" + f'place,image,classes\r\n"Bern, CH",a,"sea; grass"\r\n{rows}'.encode()
    )
    (raw / "classes.txt").write_bytes(b"\xef\xbb\xbfgrass\r\nsand\r\nsea\r\n")
    assert read(config, raw, "train", "a").labels == (GRASS, SEA)


def test_other_formats_are_stored_as_lossless_png(raw: Path, config: DatasetConfig) -> None:
    sample = read(config, raw, "train", "e")
    assert sample.extension == "png"
    pixels = np.asarray(Image.open(raw / "images" / "e.bmp"))
    np.testing.assert_array_equal(decode_image(sample.image, "png"), pixels.transpose(2, 0, 1))


def test_images_of_one_key_may_have_rows_of_their_own(raw: Path, config: DatasetConfig) -> None:
    shutil.copy(raw / "images" / "a.jpg", raw / "images" / "a.png")
    change(raw, "labels.csv", "a,grass;sand", "a.jpg,grass\r\na.png,sand")
    (raw / "splits" / "train.txt").write_text("a.jpg\na.png\nc")
    dataset = opened(config, raw)
    assert len(dataset.problems) == 1
    assert keys(dataset)["train"] == ["c"]


def test_class_names_of_the_parameters_must_be_those_of_the_file(raw: Path, config: DatasetConfig) -> None:
    swapped = config.model_copy(update={"classes": ("sand", "grass", "sea")})
    with pytest.raises(DataError, match=r"classes\.txt and dataset\.classes differ .*Set dataset\.classes to null"):
        opened(swapped, raw)


@pytest.mark.parametrize(
    ("kind", "stored", "scale"),
    [
        ("uint8", "uint8", 1 / 255),
        ("uint16", "uint16", 1.0),
        ("int16", "int16", 1.0),
        (">u2", "uint16", 1.0),
        ("int32", "float32", 1.0),
        ("float32", "float32", 1.0),
        (">f8", "float32", 1.0),
    ],
)
def test_numbers_keep_their_type_or_become_float32(
    arrays: Path, config: DatasetConfig, kind: str, stored: str, scale: float
) -> None:
    only(arrays, "a")
    for path in (arrays / "images").iterdir():
        np.save(path, np.asfortranarray(np.arange(2 * 5 * 7).reshape(2, 5, 7).astype(kind)))
    dataset = opened(config, arrays)
    assert (dataset.channels, dataset.scale) == (2, scale)
    image = decode_image(read(config, arrays, "train", "a").image, "npy")
    assert image.dtype == stored
    np.testing.assert_array_equal(image.ravel(), np.arange(70))


def test_an_array_of_two_axes_has_one_channel_and_the_scale_can_be_given(arrays: Path, config: DatasetConfig) -> None:
    only(arrays, "a")
    for path in (arrays / "images").iterdir():
        np.save(path, np.full((5, 7), 300, dtype=np.uint16))
    given = config.model_copy(update={"scale": 0.001})
    assert (opened(given, arrays).channels, opened(given, arrays).scale) == (1, 0.001)
    assert decode_image(read(given, arrays, "train", "a").image, "npy").shape == (1, 5, 7)


def test_pixels_without_value_become_0_and_are_noted(arrays: Path, config: DatasetConfig) -> None:
    image = np.load(arrays / "images" / "a.npy").astype(np.float64)
    image[0, 0, :4] = (np.nan, np.inf, -np.inf, 1e200)
    np.save(arrays / "images" / "a.npy", image)
    sample = read(config, arrays, "train", "a")
    stored = decode_image(sample.image, "npy")
    assert stored[0, 0, :4].tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(stored[1:], image[1:].astype(np.float32))
    assert sample.notes == ("pixels without value (NaN, infinite or nodata), set to 0",)


def test_the_first_image_that_can_be_read_says_what_the_images_are(arrays: Path, config: DatasetConfig) -> None:
    for name in "ac":
        (arrays / "images" / f"{name}.npy").write_bytes(b"damaged")
    assert (opened(config, arrays).channels, opened(config, arrays).scale) == (13, 1.0)
    for path in (arrays / "images").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"a\.npy is no readable array"):
        opened(config, arrays)


def test_a_set_of_arrays_with_the_channels_last_is_told_so(arrays: Path, config: DatasetConfig) -> None:
    for path in (arrays / "images").iterdir():
        np.save(path, np.zeros((40, 50, 13), dtype=np.float32))
    with pytest.raises(DataError, match=r"a\.npy has shape \(40, 50, 13\).*or set dataset.channels if it is that"):
        opened(config, arrays)
    assert opened(config.model_copy(update={"channels": 40}), arrays).channels == 40


def test_photographs_do_not_mix_with_arrays_of_other_bands(arrays: Path, config: DatasetConfig) -> None:
    picture = np.zeros((24, 36, 3), dtype=np.uint8)
    (arrays / "images" / "f.npy").unlink()
    write_image(arrays / "images" / "f", picture, images="photographs")
    with pytest.raises(DataError, match=r"f\.jpg: 3 bands, expected 13 \(dataset.channels or"):
        read(config, arrays, "train", "f")
    only(arrays, "f", "a")
    np.save(arrays / "images" / "a.npy", picture.transpose(2, 0, 1))
    assert opened(config, arrays).channels == 3, "8-bit arrays of 3 bands do"
    assert read(config, arrays, "train", "f").extension == "jpg"


def test_the_nodata_value_of_a_geotiff_is_no_value(geotiffs: Path, config: DatasetConfig) -> None:
    image = np.full((4, 24, 36), 7, dtype=np.int16)
    image[2, 0, 0] = -9999
    write_raster(geotiffs / "images" / "a.tif", image, nodata=-9999)
    sample = read(config, geotiffs, "train", "a")
    stored = decode_image(sample.image, "npy")
    assert (stored == 0).sum() == 1
    assert stored[2, 0, 0] == 0
    assert len(sample.notes) == 1
    image[2] = -9999
    write_raster(geotiffs / "images" / "a.tif", image, nodata=-9999)
    with pytest.raises(DataError, match="band 3 holds no value"):
        read(config, geotiffs, "train", "a")


def test_the_nodata_value_of_a_mask_is_ignored_unless_it_is_a_class(geotiffs: Path, config: DatasetConfig) -> None:
    mask = np.ones((1, 24, 36), dtype=np.int16)
    mask[0, 0] = -1
    write_raster(geotiffs / "masks" / "a.tif", mask, nodata=-1)
    found = read(config, geotiffs, "train", "a").mask
    assert found is not None
    assert (found[0] == 255).all()
    assert (found[1:] == 1).all()
    write_raster(geotiffs / "masks" / "a.tif", abs(mask), nodata=1)
    found = read(config, geotiffs, "train", "a").mask
    assert found is not None
    assert (found == 1).all()


def eight_bit(root: Path, bands: int) -> np.ndarray:
    """Makes every image a GeoTIFF of 8 bits; the pixels of ``a``."""
    image = np.random.default_rng(0).integers(0, 256, size=(bands, 24, 36), dtype=np.uint8)
    for path in (root / "images").iterdir():
        write_raster(path, image)
    only(root, "a")
    return image


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_geotiffs_of_8_bits_are_photographs(geotiffs: Path, config: DatasetConfig, bands: int) -> None:
    image = eight_bit(geotiffs, bands)
    dataset = opened(config, geotiffs)
    assert (dataset.channels, dataset.scale) == (3, 1 / 255)
    sample = read(config, geotiffs, "train", "a")
    assert sample.extension == "png"
    assert sample.georeference is not None
    np.testing.assert_array_equal(decode_image(sample.image, "png"), image[np.arange(3) % min(bands, 3)])
    assert (
        sample.notes
        == {
            1: ("colour mode L, which becomes RGB",),
            3: (),
            4: ("colour mode RGBA, which becomes RGB", "a fourth band, taken for transparency and dropped"),
        }[bands]
    )


@pytest.mark.parametrize("bands", [1, 2, 4, 13])
def test_geotiffs_of_8_bits_keep_their_bands_when_asked_or_when_they_are_no_photographs(
    geotiffs: Path, config: DatasetConfig, bands: int
) -> None:
    image = eight_bit(geotiffs, bands)
    given = config.model_copy(update={"channels": bands if bands in {1, 4} else None})
    assert (opened(given, geotiffs).channels, opened(given, geotiffs).scale) == (bands, 1 / 255)
    sample = read(given, geotiffs, "train", "a")
    np.testing.assert_array_equal(decode_image(sample.image, sample.extension), image)


def test_palettes_of_tiff_photographs_are_colours(geotiffs: Path, config: DatasetConfig) -> None:
    eight_bit(geotiffs, 1)
    picture = Image.fromarray(np.arange(24 * 36 * 3, dtype=np.uint8).reshape(24, 36, 3)).quantize(9)
    picture.save(geotiffs / "images" / "a.tif")
    stored = decode_image(read(config, geotiffs, "train", "a").image, "png")
    np.testing.assert_array_equal(stored, np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


def test_one_reference_system_in_two_spellings_is_one_place(geotiffs: Path, config: DatasetConfig) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra 'data'")
    crs = rasterio.crs.CRS.from_string("+proj=laea +lat_0=46 +lon_0=7 +datum=WGS84 +units=m").to_wkt()
    write_raster(geotiffs / "images" / "f.tif", np.ones((4, 24, 36), dtype=np.uint16), crs=crs)
    write_raster(geotiffs / "masks" / "f.tif", MASK, crs=crs.replace('"unknown"', '"Alps"', 1))
    assert read(config, geotiffs, "train", "f").mask is not None


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the research data {REAL} are not here")
def test_reads_real_photographs(config: DatasetConfig) -> None:
    dataset = opened(config, REAL)
    assert {name: len(entries) for name, entries in dataset.splits.items()} == {"train": 400, "val": 191}
    assert len(dataset.tune) == 100
    assert (len(dataset.classes.names), dataset.problems, dataset.left_out) == (21, (), {})
    for key in keys(dataset)["val"][::20]:
        sample = read(config, REAL, "val", key)
        assert sample.image == (REAL / "images" / f"{key}.jpg").read_bytes(), "stored as it is"
        assert sample.mask is not None
        shown = set(np.unique(sample.mask).tolist()) - {255}
        assert shown <= set(sample.labels), "every class in a mask is among the image's labels"
        assert decode_image(sample.image, sample.extension).shape == (3, sample.height, sample.width)


@pytest.mark.skipif(not SENTINEL2.is_file(), reason=f"the research data {SENTINEL2} are not here")
def test_real_sentinel_2_goes_through_as_arrays_of_13_bands(config: DatasetConfig, tmp_path: Path) -> None:
    """Five dates of one place, 13 bands, reflectance already scaled; the land cover gives labels and masks."""
    raw = tmp_path / "raw"
    for folder in ("images", "masks"):
        (raw / folder).mkdir(parents=True)
    with np.load(SENTINEL2) as file:
        scenes, land_cover = file["scenes"], file["lulc"]
    ids, names = (1, 2, 3, 4, 8), ("cultivated", "forest", "grassland", "shrubland", "artificial")
    values = np.full(256, 255, dtype=np.uint8)  # 0 is no data
    values[list(ids)] = range(len(ids))
    mask = values[land_cover]
    present = ";".join(names[k] for k in np.unique(mask) if k != 255)
    for number, scene in enumerate(scenes):
        np.save(raw / "images" / f"date{number}.npy", scene.transpose(2, 0, 1))
        Image.fromarray(mask).save(raw / "masks" / f"date{number}.png")
    (raw / "classes.txt").write_text("\n".join(names))
    (raw / "labels.csv").write_text("image,classes\n" + "".join(f"date{n},{present}\n" for n in range(5)))
    (raw / "splits").mkdir()
    (raw / "splits" / "train.txt").write_text("date0\ndate1\ndate2\ndate3\n")
    (raw / "splits" / "val.txt").write_text("date4\n")

    packed(config, raw, tmp_path / "shards")
    shards = ShardFolder.open(tmp_path / "shards")
    assert (shards.channels, shards.scale) == (13, 1.0)
    split = shards.split("val")
    np.testing.assert_array_equal(split.image(0), scenes[4].transpose(2, 0, 1))
    np.testing.assert_array_equal(split.mask(0, TRUTH), mask)
    assert split.labels.all()
    assert shards.mean is not None
    np.testing.assert_allclose(shards.mean, scenes[:4].mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-4)
