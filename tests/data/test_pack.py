"""A raw data set as shards: the same bytes for any number of workers and after any interruption; nothing is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctm.data.config import DatasetConfig, PreprocessConfig
from ctm.data.datasets import open_dataset
from ctm.data.pack import Packing, write_dataset_shards
from ctm.data.shards import ShardFolder
from ctm.errors import DataError, ParamsError, StorageError
from ctm.runtime.storage import open_tree
from tests.miniatures.dfc2020 import write_dfc2020
from tests.miniatures.samples import packed


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """60 photographs of noise, about 50 kB each: three shards of 1 MB; every third has a mask."""
    root = tmp_path / "many"
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"p{number:02d}" for number in range(60)]
    for number, name in enumerate(names):
        pixels = rng.integers(0, 256, size=(130 + number, 140, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        if number % 3 == 0:
            mask = np.full(pixels.shape[:2], number % 2, dtype=np.uint8)
            Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    (root / "classes.txt").write_text("grass\ncow\n")
    rows = [f"{name},{'cow' if number % 2 else 'grass'}" for number, name in enumerate(names)]
    (root / "labels.csv").write_text("image,classes\n" + "\n".join(rows) + "\n")
    (root / "splits" / "train.txt").write_text("\n".join(names[:44]))
    (root / "splits" / "val.txt").write_text("\n".join(names[44:]))
    return root


def test_the_tune_list_goes_with_the_shards(folder: Path, config: DatasetConfig, tmp_path: Path) -> None:
    (folder / "splits" / "tune.txt").write_text("c\na\n")
    packed(config, folder, tmp_path / "out")
    assert ShardFolder.open(tmp_path / "out").index.tune == ("a", "c")


def interrupted(config: DatasetConfig, root: Path, folder: Path, *, at: str, workers: int = 1, **settings: Any) -> None:
    """Packs until an image cannot be read, as if the disk had gone in the middle; then the image is back."""
    tree = open_tree(str(root))
    dataset = open_dataset(config, tree)
    progress = folder.with_name(f"{folder.name}.progress")
    packing = Packing("statistics", PreprocessConfig(shard_mb=1, **settings), workers, progress, resume=True)
    image, away = root / "images" / f"{at}.png", root / "away"
    image.rename(away)
    with pytest.raises(StorageError, match=f"{at}.png"):
        write_dataset_shards(dataset, tree, folder, packing)
    away.rename(image)
    assert not folder.exists()


def test_data_set_shards_hold_images_truth_and_counts(
    folder: Path, config: DatasetConfig, tmp_path: Path, shards: ShardFolder
) -> None:
    found = packed(config, folder, tmp_path / "out", normalise="none")
    assert {name: (split.samples, split.with_truth, dict(split.labels)) for name, split in found.items()} == {
        "train": (3, 3, {"grass": 2, "cow": 3, "sky": 1}),
        "val": (2, 1, {"grass": 1, "sky": 1}),
    }
    assert ShardFolder.open(tmp_path / "out").mean is None
    assert not shards.tune
    val = shards.split("val")
    assert val.read(0, "jpg") == (folder / "images" / "d.jpg").read_bytes()
    truth = np.asarray(Image.open(folder / "masks" / "d.png"))
    np.testing.assert_array_equal(val.mask(0, "mask.png"), truth)
    np.testing.assert_array_equal(val.image(0), np.asarray(Image.open(folder / "images" / "d.jpg")).transpose(2, 0, 1))
    assert not val.has(1, "mask.png")
    assert (shards.channels, shards.scale) == (3, 1 / 255)


def test_any_number_of_workers_writes_the_same_bytes(many: Path, config: DatasetConfig, tmp_path: Path) -> None:
    for workers in (0, 1, 2, 3):
        packed(config, many, tmp_path / f"workers{workers}", workers=workers)
    one = digest(tmp_path / "workers1")
    assert [name for name in one if name.startswith("train-")] == [f"train-0000{n}.tar" for n in range(3)]
    assert all(digest(tmp_path / f"workers{workers}") == one for workers in (0, 2, 3))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at", ["p00", "p30", "p43", "p44", "p59"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    many: Path, config: DatasetConfig, tmp_path: Path, at: str, workers: int
) -> None:
    packed(config, many, tmp_path / "whole")
    interrupted(config, many, tmp_path / "out", at=at, workers=workers)
    assert (tmp_path / "out.progress").exists() == (at != "p00"), "nothing is kept where nothing was finished"
    packed(config, many, tmp_path / "out", workers=workers)
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_finished_shards_are_not_written_again(many: Path, config: DatasetConfig, tmp_path: Path, caplog) -> None:
    out = tmp_path / "out"
    interrupted(config, many, out, at="p50")
    first = tmp_path / "out.progress" / "shards" / "train-00000.tar"
    before = (first.stat().st_ino, first.stat().st_mtime_ns)
    with caplog.at_level("INFO", logger="ctm"):
        found = packed(config, many, out)
    after = (out / "train-00000.tar").stat()
    assert (after.st_ino, after.st_mtime_ns) == before
    assert "resuming after" in caplog.text
    assert (found["train"].samples, found["train"].with_truth, sum(found["train"].labels.values())) == (44, 15, 44)


def test_a_damaged_finished_shard_is_never_accepted(many: Path, config: DatasetConfig, tmp_path: Path, caplog) -> None:
    packed(config, many, tmp_path / "whole")
    interrupted(config, many, tmp_path / "out", at="p50")
    shard = tmp_path / "out.progress" / "shards" / "train-00000.tar"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    packed(config, many, tmp_path / "out")
    assert "train-00000.tar is not as it was written: beginning anew" in caplog.text
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


@pytest.mark.parametrize("spoil", ["journal", "records gone", "records changed", "raw data"])
def test_what_cannot_be_trusted_is_begun_anew(
    many: Path, config: DatasetConfig, tmp_path: Path, spoil: str, caplog
) -> None:
    interrupted(config, many, tmp_path / "out", at="p50")
    progress = tmp_path / "out.progress"
    if spoil == "journal":
        (progress / "journal.json").write_text('{"stamp": ')
    elif spoil == "records gone":
        (progress / "shards" / "train.jsonl").unlink()
    elif spoil == "records changed":
        records = progress / "shards" / "train.jsonl"
        records.write_bytes(records.read_bytes().replace(b'"p01"', b'"p00"'))
    else:
        Image.new("RGB", (50, 50)).save(many / "images" / "p01.png")
    packed(config, many, tmp_path / "out")
    packed(config, many, tmp_path / "whole")
    assert "beginning anew" in caplog.text
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_resume_never_begins_anew(many: Path, config: DatasetConfig, tmp_path: Path, caplog) -> None:
    interrupted(config, many, tmp_path / "out", at="p50")
    tree = open_tree(str(many))
    packing = Packing("statistics", PreprocessConfig(shard_mb=1), 1, tmp_path / "out.progress", resume=False)
    with caplog.at_level("INFO", logger="ctm"):
        write_dataset_shards(open_dataset(config, tree), tree, tmp_path / "out", packing)
    assert "resuming" not in caplog.text


def test_a_bad_file_is_named_and_nothing_is_written(folder: Path, config: DatasetConfig, tmp_path: Path) -> None:
    (folder / "images" / "e.jpg").write_bytes(b"no jpeg")
    for workers in (1, 2):
        with pytest.raises(DataError, match=r"e\.jpg is no readable image.*ctm check-data.*on_error: skip"):
            packed(config, folder, tmp_path / f"out{workers}", workers=workers)
        assert not (tmp_path / f"out{workers}").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_skip_leaves_bad_files_out_and_counts_them(
    many: Path, config: DatasetConfig, tmp_path: Path, workers: int
) -> None:
    for name in ("p00", "p07", "p43", "p50"):
        (many / "images" / f"{name}.png").write_bytes(b"")
    (many / "images" / "p09.png").unlink()
    found = packed(config, many, tmp_path / "out", workers=workers, on_error="skip")
    paths = [problem.path for split in found.values() for problem in split.problems]
    assert paths == [f"images/{name}.png" for name in ("p00", "p07", "p43", "p50")]
    keys = [key for name in ("train", "val") for key in ShardFolder.open(tmp_path / "out").split(name).keys]
    gone = {0, 7, 9, 43, 50}
    assert keys == [f"p{number:02d}" for number in range(60) if number not in gone]
    assert (found["train"].taken, found["train"].samples) == (43, 40)


def test_skipped_files_are_remembered_across_an_interruption(many: Path, config: DatasetConfig, tmp_path: Path) -> None:
    (many / "images" / "p02.png").write_bytes(b"")
    packed(config, many, tmp_path / "whole", on_error="skip")
    interrupted(config, many, tmp_path / "out", at="p55", on_error="skip")
    found = packed(config, many, tmp_path / "out", on_error="skip")
    assert [problem.path for problem in found["train"].problems] == ["images/p02.png"]
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_a_split_without_a_usable_image_is_an_error_even_with_skip(
    folder: Path, config: DatasetConfig, tmp_path: Path
) -> None:
    for name in ("d", "e"):
        (folder / "images" / f"{name}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="no image of split 'val' can be used"):
        packed(config, folder, tmp_path / "out", on_error="skip")


def test_an_output_on_another_disk_is_copied(
    folder: Path, config: DatasetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs /dev/shm on a file system of its own")
    out = other / f"ctm-test-{os.getpid()}"
    tree = open_tree(str(folder))
    packing = Packing("none", PreprocessConfig(), 1, tmp_path / "progress", resume=True)
    packed(config, folder, tmp_path / "here", normalise="none")
    try:
        write_dataset_shards(open_dataset(config, tree), tree, out, packing)
        assert digest(out) == digest(tmp_path / "here")
    finally:
        shutil.rmtree(out, ignore_errors=True)


def test_a_constant_channel_keeps_deviation_one(folder: Path, config: DatasetConfig, tmp_path: Path) -> None:
    for path in (folder / "images").iterdir():
        Image.new("RGB", Image.open(path).size, (128, 128, 128)).save(path)
    packed(config, folder, tmp_path / "grey")
    shards = ShardFolder.open(tmp_path / "grey")
    assert shards.std == (1.0, 1.0, 1.0)
    np.testing.assert_allclose(shards.mean, 128 / 255, rtol=1e-5)


def test_imagenet_statistics_need_three_channels(folder: Path, config: DatasetConfig, tmp_path: Path) -> None:
    packed(config, folder, tmp_path / "rgb", normalise="imagenet")
    assert ShardFolder.open(tmp_path / "rgb").std == (0.229, 0.224, 0.225)
    write_dfc2020(tmp_path / "dfc")
    with pytest.raises(ParamsError, match="'imagenet' needs 3 channels, the images have 15"):
        packed(DatasetConfig(format="dfc2020", root="x"), tmp_path / "dfc", tmp_path / "out", normalise="imagenet")
