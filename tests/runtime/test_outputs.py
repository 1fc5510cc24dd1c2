"""Outputs appear whole or not at all, whatever lay there before."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctm.errors import ArtifactError
from ctm.runtime.outputs import remove, staged_outputs, write_text


def content(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def make_folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_files_and_folders_appear_when_the_block_has_ended(tmp_path: Path):
    targets = {"table": tmp_path / "new" / "table.csv", "model": tmp_path / "model"}
    with staged_outputs(targets) as staged:
        staged["table"].write_text("1")
        make_folder(staged["model"], weights="2")
        assert not any(target.exists() for target in targets.values())
    assert content(tmp_path) == {"new/table.csv": "1", "model/weights": "2"}


def fail_halfway(outputs: dict[str, Path]) -> None:
    """Writes something to every output and is interrupted."""
    with staged_outputs(outputs) as staged:
        for path in staged.values():
            make_folder(path, new="2")
        raise KeyboardInterrupt


def test_after_an_error_everything_is_as_it_was(tmp_path: Path):
    make_folder(tmp_path / "model", old="1")
    with pytest.raises(KeyboardInterrupt):
        fail_halfway({"model": tmp_path / "model", "other": tmp_path / "other"})
    assert content(tmp_path) == {"model/old": "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_folder_replaces_a_folder_with_all_that_was_in_it(tmp_path: Path):
    make_folder(tmp_path / "model", old="1", both="1")
    with staged_outputs({"model": tmp_path / "model"}) as staged:
        make_folder(staged["model"], both="2")
    assert content(tmp_path) == {"model/both": "2"}


def test_an_output_that_is_a_file_replaces_a_folder_and_a_text_does_not(tmp_path: Path):
    make_folder(tmp_path / "out", old="1")
    with pytest.raises(ArtifactError, match="out is a folder, which a file would replace"):
        write_text(tmp_path / "out", "2")
    assert content(tmp_path) == {"out/old": "1"}
    with staged_outputs({"file": tmp_path / "out"}) as staged:
        staged["file"].write_text("2")
    assert content(tmp_path) == {"out": "2"}


def test_what_a_killed_run_left_does_not_come_back(tmp_path: Path):
    with staged_outputs({"model": tmp_path / "model"}) as staged:
        left = make_folder(staged["model"], stale="1")
    (tmp_path / "model").rename(left)  # as a killed run leaves it
    with staged_outputs({"model": tmp_path / "model"}) as staged:
        assert not staged["model"].exists()
        make_folder(staged["model"], new="2")
    assert content(tmp_path) == {"model/new": "2"}


def test_a_run_killed_between_its_two_renames_leaves_nothing_behind_for_good(tmp_path: Path):
    make_folder(tmp_path / ".model.old", old="1")  # where the old folder is while the new one takes its place
    with staged_outputs({"model": tmp_path / "model"}) as staged:
        make_folder(staged["model"], new="2")
    assert content(tmp_path) == {"model/new": "2"}


def test_an_output_that_is_never_written_leaves_the_old_one(tmp_path: Path):
    make_folder(tmp_path / "model", old="1")
    with pytest.raises(FileNotFoundError), staged_outputs({"model": tmp_path / "model"}):
        pass
    assert content(tmp_path) == {"model/old": "1"}


def test_remove_takes_files_folders_links_and_nothing(tmp_path: Path):
    kept = make_folder(tmp_path / "kept", file="1")
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "file").write_text("2")
    make_folder(tmp_path / "folder", file="3")
    for name in ("link", "file", "folder", "nothing"):
        remove(tmp_path / name)
    assert content(tmp_path) == {"kept/file": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_text_is_written_in_utf_8(tmp_path: Path):
    write_text(tmp_path / "a" / "b.txt", "×–é")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "×–é".encode()
