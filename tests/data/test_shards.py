"""Shards: what goes in comes out, the same bytes each time, and damage is named."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import ShardFolder
from ctm.errors import ArtifactError
from tests.miniatures.samples import packed
from tests.miniatures.sets import SETS

CLASSES = ClassTable(names=("background", "cow", "sky"), background=0)


def write_masks(folder: Path, *, count: int = 40, shard_mb: int = 1, payload: int = 60_000) -> None:
    """Masks of three sizes; every fourth sample has no mask, sample 5 no label."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder, "train", classes=CLASSES, shard_mb=shard_mb) as writer:
        for number in range(count):
            members = {"json": rng.bytes(payload)}
            if number % 4:
                members["png"] = bytes([number])
            labels = () if number == 5 else (1, 2) if number % 2 else (2,)
            writer.add(f"s{number}", members, labels=labels, height=10 + number, width=20)
    write_index(
        folder,
        ShardIndex(
            kind="masks", classes=CLASSES.names, background=0, splits={"train": writer.entry}, about={"strategy": "x"}
        ),
    )


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_every_member_comes_back(tmp_path: Path) -> None:
    write_masks(tmp_path)
    folder = ShardFolder.open(tmp_path)
    assert folder.classes == CLASSES
    assert folder.splits == ("train",)
    assert folder.index.about == {"strategy": "x"}
    split = folder.split("train")
    rng = np.random.default_rng(0)
    assert len(split) == 40
    assert split.keys == [f"s{number}" for number in range(40)]
    for number in range(40):
        assert split.read(number, "json") == rng.bytes(60_000)
        assert split.has(number, "png") == bool(number % 4)
        if number % 4:
            assert split.read(number, "png") == bytes([number])
    assert split.index_of("s17") == 17
    assert split.labels.shape == (40, 2)
    assert split.labels[:6].tolist() == [[False, True], [True, True]] * 2 + [[False, True], [False, False]]
    assert split.sizes[3].tolist() == [13, 20]
    assert folder.index.splits["train"].labels == {"cow": 19, "sky": 39}


def test_a_shard_is_closed_by_the_sample_that_fills_it(tmp_path: Path) -> None:
    write_masks(tmp_path)
    shards = ShardFolder.open(tmp_path).index.splits["train"].shards
    assert [shard.samples for shard in shards] == [17, 17, 6]
    assert all(1_000_000 <= shard.bytes < 1_100_000 for shard in shards[:-1])


def test_shards_are_tar_files_as_webdataset_reads_them(shards: ShardFolder) -> None:
    with tarfile.open(shards.path / "train-00000.tar") as archive:
        names = archive.getnames()
        assert names == ["c.png", "c.mask.png", "a.jpg", "a.mask.png", "b.jpg", "b.mask.png"]
        member = archive.extractfile("a.jpg")
        assert member is not None
        assert member.read() == shards.split("train").read(1, "jpg")
        info = archive.getmember("a.jpg")
        assert (info.mtime, info.uid, info.gid, info.uname, info.mode) == (0, 0, 0, "", 0o644)
    assert (shards.path / "train-00000.tar").stat().st_size % tarfile.RECORDSIZE == 0


def test_long_names_keep_their_offsets(tmp_path: Path) -> None:
    key = "k" * 200
    with ShardWriter(tmp_path, "val", classes=CLASSES) as writer:
        writer.add(key, {"png": b"first"}, labels=(1,), height=1, width=1)
        writer.add("next", {"png": b"second"}, labels=(1,), height=1, width=1)
    write_index(tmp_path, ShardIndex(kind="masks", classes=CLASSES.names, background=0, splits={"val": writer.entry}))
    split = ShardFolder.open(tmp_path).split("val")
    assert [split.read(index, "png") for index in range(2)] == [b"first", b"second"]
    with tarfile.open(tmp_path / "val-00000.tar") as archive:
        assert archive.getnames() == [f"{key}.png", "next.png"]


def test_recorded_digests_are_those_of_the_files(shards: ShardFolder) -> None:
    files = digest(shards.path)
    for split in shards.index.splits.values():
        for entry in (split.records, *split.shards):
            assert files[entry.file] == entry.sha256


def test_statistics_are_those_of_all_scaled_train_pixels(folder: Path, shards: ShardFolder) -> None:
    images = [np.asarray(Image.open(folder / "images" / name)) for name in ("a.jpg", "b.jpg", "c.png")]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    np.testing.assert_allclose(shards.mean, pixels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(shards.std, pixels.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "../a", "s0"])
def test_unsafe_and_repeated_keys_are_refused(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path, "train", classes=CLASSES) as writer:
        writer.add("s0", {"png": b"x"}, labels=(1,), height=1, width=1)
        with pytest.raises(ValueError, match="key"):
            writer.add(key, {"png": b"x"}, labels=(1,), height=1, width=1)


def test_labels_without_token_are_refused(tmp_path: Path) -> None:
    with (
        ShardWriter(tmp_path, "train", classes=CLASSES) as writer,
        pytest.raises(ValueError, match=r"labels \(0,\)"),
    ):
        writer.add("s0", {"png": b"x"}, labels=(0,), height=1, width=1)


def edit_index(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(values | changes))


DAMAGE = {
    "no index": (lambda f: (f / "index.json").unlink(), "index.json is missing.*run the stage"),
    "no JSON": (lambda f: (f / "index.json").write_text('{"format": 1, '), "index.json is damaged"),
    "no object": (lambda f: (f / "index.json").write_text("[]"), "index.json is damaged"),
    "no text": (lambda f: (f / "index.json").write_bytes(b"\xff\xfe\x00"), "index.json is damaged"),
    "missing field": (lambda f: edit_index(f, classes=None), "index.json is damaged"),
    "other version": (lambda f: edit_index(f, format=2), "format version 2, this ctm reads version 1"),
    "no shard": (lambda f: (f / "train-00001.tar").unlink(), "train-00001.tar is missing, though index.json lists it"),
    "cut shard": (
        lambda f: (f / "train-00001.tar").write_bytes(b"x"),
        "train-00001.tar is damaged: 1 bytes instead of",
    ),
    "no records": (lambda f: (f / "train.jsonl").unlink(), "train.jsonl is missing"),
    "other records": (
        lambda f: (f / "train.jsonl").write_bytes((f / "train.jsonl").read_bytes().replace(b"s1", b"s9")),
        "train.jsonl is damaged: its digest",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_gives_one_clear_artifact_error(tmp_path: Path, case: str) -> None:
    write_masks(tmp_path)
    spoil, message = DAMAGE[case]
    spoil(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        ShardFolder.open(tmp_path).split("train")


def test_unknown_splits_keys_and_members_are_named(shards: ShardFolder) -> None:
    with pytest.raises(ArtifactError, match="has no split 'test'; splits: train, val"):
        shards.split("test")
    val = shards.split("val")
    with pytest.raises(ArtifactError, match="split 'val' has no sample 'a'"):
        val.index_of("a")
    with pytest.raises(
        ArtifactError, match=r"'e' of split 'val' has no 'mask.png'; members of the split: jpg, mask.png"
    ):
        val.read(1, "mask.png")


def test_damaged_members_name_shard_and_sample(shards: ShardFolder) -> None:
    path = shards.path / "val-00000.tar"
    path.write_bytes(bytes(path.stat().st_size))
    split = ShardFolder.open(shards.path).split("val")
    with pytest.raises(ArtifactError, match=r"val-00000.tar is damaged: d.jpg cannot be decoded"):
        split.image(0)
    with pytest.raises(ArtifactError, match=r"val-00000.tar is damaged: d.mask.png cannot be decoded"):
        split.mask(0, "mask.png")


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    code = f"""
import resource, sys
from pathlib import Path
from ctm.data.classes import ClassTable
from ctm.data.config import DatasetConfig
from ctm.data.inputs import InputSpec
from ctm.data.shard_writer import ShardWriter
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB
classes = ClassTable(names=("a",))
before = peak()
with ShardWriter(Path({str(tmp_path)!r}), "train", classes=classes, shard_mb=30) as writer:
    for number in range(150):
        writer.add(str(number), {{"npy": bytes(1_000_000)}}, labels=(0,), height=1, width=1)
grown = peak() - before
assert grown < 30, grown
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_model_learns_what_the_images_of_the_train_split_are(shards: ShardFolder) -> None:
    inputs = shards.input_spec((32, 48))
    assert inputs == InputSpec(
        (32, 48), 3, shards.scale, shards.mean, shards.std, values="bytes", stored_size=(24, 24)
    )  # sizes (20, 30), (24, 24) and (30, 20)


@pytest.mark.parametrize(
    ("name", "options", "values"),
    [
        ("folder", {}, "bytes"),
        ("arrays", {}, "numbers"),
        ("geotiffs", {}, "numbers"),
        ("dfc2020", {}, "dfc2020"),
        ("dfc2020", {"scaling": "image_max"}, "dfc2020_image_max"),
    ],
)
def test_the_index_says_what_the_pixel_values_are(
    tmp_path: Path, name: str, options: dict[str, Any], values: str
) -> None:
    SETS[name].write(tmp_path / "raw")
    packed(SETS[name].config.model_copy(update=options), tmp_path / "raw", tmp_path / "made")
    assert ShardFolder.open(tmp_path / "made").index.values == values
