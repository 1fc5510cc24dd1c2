"""Bad files met on the command line: `ctm check-data` lists them all and writes nothing, `preprocess` can skip them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from ctm.data.shards import ShardFolder
from ctm.params import load_preset, to_yaml
from tests.e2e.conftest import Checkout, overrides
from tests.miniatures import ade20k, dfc2020, endotect, folder

pytestmark = pytest.mark.slow

ANY_CLASSES = {"dataset.classes": "null", "dataset.channels": "null"}
SKIP = overrides({"preprocess.on_error": "skip"})


def state(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with the time of its last change and its contents."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def spoil(raw: Path) -> None:
    """A photograph cut short, a mask with a value that is no class, and a file of no bytes."""
    image = raw / "images" / "a.jpg"
    image.write_bytes(image.read_bytes()[:300])
    with Image.open(raw / "masks" / "c.png") as mask:
        mask.putpixel((3, 3), 9)
        mask.save(raw / "masks" / "c.png")
    (raw / "images" / "e.bmp").write_bytes(b"")


def prepared(root: Path, preset: str, write: Callable[[Path], None], settings: Mapping[str, str] = {}) -> Checkout:
    """A working folder with ``params.yaml`` and good data in ``raw``."""
    root.mkdir()
    values = [f"{name}={value}" for name, value in {**settings, "dataset.root": "raw"}.items()]
    (root / "params.yaml").write_text(to_yaml(load_preset(preset, values)), encoding="utf-8")
    write(root / "raw")
    return Checkout(root)


@pytest.fixture
def tree(tmp_path: Path) -> Checkout:
    """A working folder with photographs."""
    return prepared(tmp_path / "work", "photographs", folder.write_folder, ANY_CLASSES)


def test_good_data_give_a_table_and_nothing_is_written(tree: Checkout) -> None:
    before = state(tree.root)
    done = tree.try_run("ctm", "check-data")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["folder", "in", "raw"]
    assert ["images", "with", "truth", "labels/image", "unusable"] in rows
    assert ["train", "6", "6", "2.00", "0"] in rows
    assert ["val", "3", "2", "2.00", "0"] in rows
    assert ["class", "train", "val"] in rows
    for name in ("grass", "sand", "sea"):
        assert [name, "4", "2"] in rows
    assert "cannot be used" not in done.stdout
    assert state(tree.root) == before


def test_three_bad_files_are_all_listed_and_nothing_is_written(tree: Checkout) -> None:
    spoil(tree.root / "raw")
    before = state(tree.root)
    done = tree.try_run("ctm", "check-data", "--workers", "2")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "3 files cannot be used:" in done.stdout
    listed = [line for line in done.stdout.splitlines() if line.startswith("    raw/")]
    places = [line.split()[0].rstrip(":") for line in listed]
    assert places == ["raw/images/a.jpg", "raw/masks/c.png", "raw/images/e.bmp"]
    assert "no readable image" in listed[0]
    assert "mask values [9] are no class; valid are 0 to 2" in listed[1]
    assert ["train", "3", "3", "2.00", "3"] in [line.split() for line in done.stdout.splitlines()]
    assert state(tree.root) == before


def test_bad_files_that_are_to_be_skipped_are_listed_and_no_failure(tree: Checkout) -> None:
    spoil(tree.root / "raw")
    done = tree.try_run("ctm", "check-data", *SKIP)
    assert done.returncode == 0, done.stderr
    assert "3 files cannot be used:" in done.stdout
    assert all(f"raw/images/{name}" in done.stdout for name in ("a.jpg", "e.bmp"))


@pytest.mark.parametrize("skip", [(), SKIP], ids=["fail", "skip"])
def test_data_that_cannot_be_used_at_all_give_one_error(tree: Checkout, skip: tuple[str, ...]) -> None:
    labels = tree.root / "raw" / "labels.csv"
    labels.write_bytes("image,classes\na,Gräser\n".encode("latin-1"))
    before = state(tree.root)
    done = tree.try_run("ctm", "check-data", *skip)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "error: raw/labels.csv is no UTF-8 text (invalid continuation byte at byte 18); save it as UTF-8"
    ]
    assert state(tree.root) == before


def test_all_problems_are_listed_however_many(tree: Checkout) -> None:
    with (tree.root / "raw" / "labels.csv").open("a", encoding="utf-8") as table:
        table.writelines(f"ghost{number},sea\n" for number in range(50))
    done = tree.try_run("ctm", "check-data")
    assert done.returncode == 1
    assert all(f"no image 'ghost{number}'" in done.stdout for number in range(50))


def test_what_is_left_out_and_mended_is_told(tmp_path: Path) -> None:
    tree = prepared(tmp_path / "work", "endotect", endotect.write_endotect)
    done = tree.run("ctm", "check-data")
    assert "left out: 1 segmented images that are no labelled polyp" in done
    assert "a polyp without a mask, so without truth" in done


def test_a_file_name_of_other_bytes_is_listed_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = prepared(tmp_path / "work", "ade20k", ade20k.write_ade20k)
    images = tree.root / "raw" / "ADEChallengeData2016" / "images" / "training"
    try:
        (images / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("needs a file system that takes any bytes for a name")
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")  # as in most locales
    done = tree.try_run("ctm", "check-data")
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert "caf" in done.stdout


def test_preprocess_names_the_first_bad_file_and_writes_nothing(tree: Checkout) -> None:
    spoil(tree.root / "raw")
    before = state(tree.root)
    done = tree.try_run("ctm", "preprocess", "--raw", "raw")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: raw/images/a.jpg is no readable image")
    assert "`ctm check-data` lists every such file" in errors[0]
    assert "preprocess.on_error: skip" in errors[0]
    assert "Traceback" not in done.stderr
    assert state(tree.root) == before


def test_preprocess_counts_and_lists_what_it_skips(tree: Checkout) -> None:
    spoil(tree.root / "raw")
    (tree.root / "raw" / "images" / "g.jpg").unlink()
    shown = tree.run("ctm", "preprocess", "--raw", "raw", *SKIP)
    metrics = tree.json("metrics/preprocess.json")
    assert metrics["skipped"] == 4
    assert (metrics["train"]["samples"], metrics["train"]["skipped"]) == (3, 3)
    assert (metrics["val"]["samples"], metrics["val"]["skipped"]) == (2, 0), "a list's fault is no split's"
    skipped = tree.json("metrics/preprocess.manifest.json")["skipped"]
    assert [one["path"] for one in skipped] == ["images/g", "images/a.jpg", "images/c.png", "images/e.bmp"]
    for one, words in zip(skipped, ("no image 'g'", "no readable", "mask values [9]", "no readable"), strict=True):
        assert words in one["reason"]
        assert one["reason"] in shown
    shards = ShardFolder.open(tree.root / "artifacts" / "shards")
    assert shards.split("train").keys == ["b_v1", "d", "f"]
    assert shards.split("val").keys == ["h", "i"]


def test_skipping_what_is_not_there_changes_nothing(tree: Checkout) -> None:
    tree.run("ctm", "preprocess", "--raw", "raw", "--shards", "one")
    tree.run("ctm", "preprocess", "--raw", "raw", "--shards", "two", *SKIP)
    one, two = ({name: data for name, (_, data) in state(tree.root / place).items()} for place in ("one", "two"))
    assert one == two


def test_unpack_writes_geotiffs_of_what_preprocess_has_read(tmp_path: Path) -> None:
    tree = prepared(tmp_path / "work", "dfc2020", dfc2020.write_dfc2020)
    tree.run("ctm", "preprocess", "--raw", "raw")
    assert "wrote 9 masks to masks" in tree.run("ctm", "unpack", "artifacts/shards", "masks", "--format", "geotiff")
    assert len(list((tree.root / "masks").rglob("*.tif"))) == 9
