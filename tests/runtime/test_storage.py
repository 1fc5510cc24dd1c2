"""Trees of local files: what is in them, what is refused, and what a listing's digest depends on."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from ctm.errors import StorageError
from ctm.runtime.storage import LocalTree, is_remote, listing_digest, open_tree
from tests.runtime.conftest import folder


def test_files_are_listed_in_ascending_order_with_their_sizes_and_hidden_ones_are_left_out(tmp_path: Path):
    folder(tmp_path, **{".b": "2", ".git/config": "3", "c/.DS_Store": "4"})
    tree = open_tree(str(folder(tmp_path, **{"b/2": "22", "a": "1", "b.txt": "", "b/10": "333"})))
    assert not tree.refused
    assert [(path, stat.size) for path, stat in tree.files.items()] == [("a", 1), ("b.txt", 0), ("b/10", 3), ("b/2", 2)]
    assert tree.read_all(tree.files) == {"a": b"1", "b.txt": b"", "b/10": b"333", "b/2": b"22"}
    assert tree.read("b/2") == b"22"
    assert tree.place("b/2") == str(tmp_path / "b" / "2")


def test_only_s3_addresses_are_remote():
    assert is_remote("s3://bucket/data")
    assert not any(map(is_remote, ("data/s3", "/data", "s3", "./s3://bucket")))


def test_a_tree_is_sent_to_another_process_without_its_listing(tmp_path: Path):
    tree = LocalTree(str(folder(tmp_path, a="1")))
    _ = tree.files
    folder(tmp_path, b="2")
    assert list(tree.files) == ["a"]
    assert list(pickle.loads(pickle.dumps(tree)).files) == ["a", "b"]


# links


def test_links_inside_the_folder_are_followed(tmp_path: Path):
    root = folder(tmp_path / "data", **{"images/a": "1", "lists/all": "a"})
    (root / "b").symlink_to("images/a")
    (root / "pictures").symlink_to(root / "images", target_is_directory=True)
    tree = LocalTree(str(root))
    assert list(tree.files) == ["b", "images/a", "lists/all", "pictures/a"]
    assert tree.read("pictures/a") == tree.read("b") == b"1"
    assert not tree.refused


def test_a_folder_that_is_reached_by_a_link_itself_is_a_tree(tmp_path: Path):
    folder(tmp_path / "real", **{"images/a": "1"})
    (tmp_path / "data").symlink_to("real", target_is_directory=True)
    (tmp_path / "real" / "b").symlink_to(tmp_path / "data" / "images" / "a")
    tree = LocalTree(str(tmp_path / "data"))
    assert list(tree.files) == ["b", "images/a"]
    assert not tree.refused


def test_links_out_of_the_folder_are_refused_whatever_way_they_go(tmp_path: Path):
    folder(tmp_path, secret="1", **{"data2/b": "2"})
    root = folder(tmp_path / "data", **{"images/a": "3"})
    (root / "absolute").symlink_to(tmp_path / "secret")
    (root / "images" / "relative").symlink_to("../../secret")
    (root / "folder").symlink_to(tmp_path / "data2", target_is_directory=True)
    (root / "hop").symlink_to("absolute")
    tree = LocalTree(str(root))
    assert list(tree.files) == ["images/a"]
    assert list(tree.refused) == ["absolute", "folder", "hop", "images/relative"]
    assert all("a symbolic link out of the data folder" in reason for reason in tree.refused.values())


def test_links_to_nowhere_and_in_a_circle_are_refused(tmp_path: Path):
    root = folder(tmp_path / "data", **{"images/a": "1"})
    (root / "nowhere").symlink_to("missing")
    (root / "up").symlink_to(".", target_is_directory=True)
    (root / "images" / "round").symlink_to("../images", target_is_directory=True)
    (root / "itself").symlink_to("itself")
    tree = LocalTree(str(root))
    assert list(tree.files) == ["images/a"]
    assert list(tree.refused) == ["images/round", "itself", "nowhere", "up"]


def test_two_folders_that_link_to_each_other_are_listed_in_the_end(tmp_path: Path):
    root = folder(tmp_path / "data", **{"x/a": "1", "y/b": "2"})
    (root / "x" / "y").symlink_to(root / "y", target_is_directory=True)
    (root / "y" / "x").symlink_to(root / "x", target_is_directory=True)
    assert {"x/a", "y/b"} <= set(LocalTree(str(root)).files)


# names


def test_names_that_are_no_utf_8_are_listed_read_and_digested(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(b"1")
    (tmp_path / "日本 .png").write_bytes(b"2")
    tree = LocalTree(str(tmp_path))
    assert tree.read_all(tree.files) == {name: b"1", "日本 .png": b"2"}
    assert listing_digest(tree) == listing_digest(LocalTree(str(tmp_path)))
    (tmp_path / name).rename(tmp_path / os.fsdecode(b"caf\xe8.png"))
    assert listing_digest(tree) != listing_digest(LocalTree(str(tmp_path)))


# what cannot be read


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path):
    folder(tmp_path, file="1")
    for path, wrong in ((tmp_path / "missing", "does not exist"), (tmp_path / "file", "is a file")):
        with pytest.raises(StorageError, match=rf"{path} {wrong}; set dataset\.root"):
            _ = LocalTree(str(path)).files


def test_a_file_that_is_gone_is_an_error(tmp_path: Path):
    tree = LocalTree(str(folder(tmp_path, a="1", b="2")))
    files = tree.files
    (tmp_path / "a").unlink()
    for read in (lambda: tree.read_all(files), lambda: tree.read("a")):
        with pytest.raises(StorageError, match=f"^{tmp_path / 'a'} cannot be read: No such file"):
            read()


@pytest.mark.parametrize("text", ["", "12", "1234"])
def test_a_file_that_has_changed_since_it_was_listed_is_an_error(tmp_path: Path, text: str):
    tree = LocalTree(str(folder(tmp_path, a="123", b="2")))
    files = tree.files
    folder(tmp_path, a=text)
    with pytest.raises(StorageError, match=f"^{tmp_path / 'a'} has changed since it was listed.*again"):
        tree.read_all(files)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path):
    root = folder(tmp_path, **{"a/b": "1"})
    (root / "a").chmod(0)
    try:
        with pytest.raises(StorageError, match="cannot be listed: Permission denied"):
            _ = LocalTree(str(root)).files
    finally:
        (root / "a").chmod(0o700)


# the digest


def test_a_listings_digest_depends_on_names_and_sizes(tmp_path: Path):
    def digest(name: str, **files: str) -> str:
        return listing_digest(LocalTree(str(folder(tmp_path / name, **files))))

    base = digest("base", **{"a": "1", "sub/b": "2"})
    assert digest("same sizes", **{"a": "3", "sub/b": "4"}) == base
    others = [
        digest("size", **{"a": "1", "sub/b": "22"}),
        digest("name", **{"a": "1", "sub/c": "2"}),
        digest("place", **{"a": "1", "b": "2"}),
        digest("more", **{"a": "1", "sub/b": "2", "c": ""}),
    ]
    assert len({base, *others}) == 5


def test_a_listings_digest_with_stamps_depends_on_when_a_file_was_written(tmp_path: Path):
    folder(tmp_path, a="1")
    os.utime(tmp_path / "a", ns=(10**18, 10**18))
    before = LocalTree(str(tmp_path))
    plain, stamped = listing_digest(before), listing_digest(before, stamps=True)
    assert stamped == listing_digest(LocalTree(str(tmp_path)), stamps=True)
    os.utime(tmp_path / "a", ns=(10**18, 10**18 + 1))
    after = LocalTree(str(tmp_path))
    assert listing_digest(after) == plain
    assert listing_digest(after, stamps=True) != stamped
