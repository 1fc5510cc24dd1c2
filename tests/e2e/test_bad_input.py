"""What a person gets wrong: one clear error each from the real command line, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import photograph_tree

pytestmark = pytest.mark.slow

PREPROCESS = ("preprocess", "--raw", "data/photos", "--shards", "artifacts/again")
TRAIN = ("train-classifier", "--shards", "artifacts/shards")
FIRST = "data/photos/images/photo000.jpg"
INDEX = "artifacts/shards/index.json"


@dataclass(frozen=True)
class Mistake:
    """A command that must fail.

    Attributes:
        command: words after ``ctm``.
        says: what the message must hold: what, where, and valid values or what to do.
        spoil: does the damage in the tree before the command runs.
    """

    command: Sequence[str]
    says: Sequence[str]
    spoil: Callable[[Path], object] = lambda tree: None


def label_of_an_unknown_class(tree: Path) -> None:
    table = tree / "data/photos/labels.csv"
    header, first, *rest = table.read_text().splitlines()
    table.write_text("\n".join([header, first.split(",")[0] + ",sky;unicorn", *rest]) + "\n")


def damaged_index(tree: Path) -> None:
    (tree / INDEX).write_text((tree / INDEX).read_text()[:-40])


def index_of_a_later_version(tree: Path) -> None:
    (tree / INDEX).write_text(json.dumps(json.loads((tree / INDEX).read_text()) | {"format": 2}))


def shard_cut_short(tree: Path) -> None:
    shard = tree / "artifacts/shards/train-00000.tar"
    shard.write_bytes(shard.read_bytes()[:1000])


MISTAKES = {
    "label of an unknown class": Mistake(
        PREPROCESS, ("labels.csv line 2", "'unicorn'", "valid names: grass, sky, sand, sea"), label_of_an_unknown_class
    ),
    "background that fill nearest never paints": Mistake(
        (*PREPROCESS, "--set", "dataset.background=sky"), ("extract_pseudomasks.fill", "'sky'", "background or ignore")
    ),
    "image size no multiple of the patch": Mistake(
        (*TRAIN, "--set", "model.image_size=[32, 30]"), ("32x30", "patch size 8", "width 30: use 24 or 32")
    ),
    "unknown backbone": Mistake((*TRAIN, "--set", "model.backbone=vit_tyni"), ("'vit_tyni'", "close names")),
    "missing weights": Mistake(
        (*TRAIN, "--set", "model.pretrained=w.safetensors"), ("model.pretrained", "w.safetensors", "does not exist")
    ),
    "a folder that holds no model": Mistake(
        ("extract-pseudomasks", "--shards", "artifacts/shards", "--pruned", "data/photos"),
        ("data/photos", "model.json", "train-classifier and prune-heads write one"),
    ),
    "damaged shards index": Mistake(TRAIN, (INDEX, "damaged", "run its stage again"), damaged_index),
    "shards of a later version": Mistake(TRAIN, (INDEX, "version 2"), index_of_a_later_version),
    "shard cut short": Mistake(TRAIN, ("artifacts/shards/train-00000.tar", "damaged", "1000 bytes"), shard_cut_short),
    "nothing to unpack": Mistake(("unpack", "data/photos", "png"), ("data/photos/index.json", "missing")),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Photographs and their shards, both in order."""
    tree = photograph_tree(tmp_path_factory.mktemp("mistakes") / "run")
    tree.run("ctm", "preprocess", "--raw", "data/photos")
    return tree


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gives_one_clear_error_and_leaves_nothing_behind(prepared, tmp_path, name):
    mistake, tree = MISTAKES[name], prepared.copy(tmp_path / "tree")
    mistake.spoil(tree.root)
    before = tree.paths()
    done = tree.try_run("ctm", *mistake.command)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    missing = [words for words in mistake.says if words not in errors[0]]
    assert not missing, done.stderr
    assert tree.paths() == before


def test_a_failed_rerun_leaves_the_finished_output_as_it_was(prepared, tmp_path):
    tree = prepared.copy(tmp_path / "tree")
    shards = tree.root / "artifacts" / "shards"
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    (tree.root / FIRST).write_bytes((tree.root / FIRST).read_bytes()[:1000])
    assert tree.try_run("ctm", "preprocess", "--raw", "data/photos").returncode == 1
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before
