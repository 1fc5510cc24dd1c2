"""What a person gets wrong: one clear error each from the real command line, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

PREPROCESS = ("preprocess", "--raw", "data/photos", "--shards", "artifacts/again")
TRAIN = ("train-classifier", "--shards", "artifacts/shards")
FIRST = "data/photos/images/photo000.jpg"


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


def image_without_label(tree: Path) -> None:
    shutil.copy(tree / FIRST, tree / "data/photos/images/stranger.jpg")


def label_without_image(tree: Path) -> None:
    (tree / FIRST).unlink()


def unreadable_image(tree: Path) -> None:
    data = (tree / FIRST).read_bytes()
    (tree / FIRST).write_bytes(data[: len(data) // 2])


def mask_of_another_size(tree: Path) -> None:
    (tree / "data/photos/masks").mkdir()
    Image.fromarray(np.zeros((5, 7), dtype=np.uint8)).save(tree / "data/photos/masks/photo000.png")


def mask_with_an_unknown_value(tree: Path) -> None:
    (tree / "data/photos/masks").mkdir()
    with Image.open(tree / FIRST) as image:
        mask = np.full((image.height, image.width), 77, dtype=np.uint8)
    Image.fromarray(mask).save(tree / "data/photos/masks/photo000.png")


def damaged_index(tree: Path) -> None:
    index = tree / "artifacts/shards/index.json"
    index.write_text(index.read_text()[:-40])


def index_of_a_later_version(tree: Path) -> None:
    index = tree / "artifacts/shards/index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"format": 2}))


def shard_cut_short(tree: Path) -> None:
    shard = tree / "artifacts/shards/train-00000.tar"
    shard.write_bytes(shard.read_bytes()[:1000])


def broken_yaml(tree: Path) -> None:
    (tree / "params.yaml").write_text("dataset: [")


MISTAKES = {
    "unknown preset": Mistake(("init", "dmeo", "--output", "x.yaml"), ("'dmeo'", "did you mean demo", "Presets:")),
    "params.yaml exists": Mistake(("init", "demo"), ("params.yaml exists", "--force")),
    "no params.yaml": Mistake((*PREPROCESS, "--params", "none.yaml"), ("none.yaml", "no such file", "ctm init")),
    "broken params.yaml": Mistake(PREPROCESS, ("params.yaml", "no valid YAML"), broken_yaml),
    "unknown parameter": Mistake(
        (*PREPROCESS, "--set", "train_classifier.epoch=3"),
        ("params.yaml", "unknown parameter train_classifier.epoch", "did you mean epochs", "batch_size"),
    ),
    "unknown section": Mistake((*PREPROCESS, "--set", "modle.depth=3"), ("modle", "did you mean model")),
    "wrong type": Mistake(
        (*PREPROCESS, "--set", "train_classifier.epochs=many"), ("train_classifier.epochs", "integer", "'many'")
    ),
    "fraction for a count": Mistake((*PREPROCESS, "--set", "model.depth=2.5"), ("model.depth", "integer", "found 2.5")),
    "value out of range": Mistake(
        (*PREPROCESS, "--set", "train_classifier.masking_ratio=1"), ("masking_ratio", "less than 1", "found 1")
    ),
    "override without a value": Mistake((*PREPROCESS, "--set", "seed"), ("--set seed", "section.name=value")),
    "broken JSON config": Mistake((*PREPROCESS, "--config", "{"), ("--config", "no valid JSON")),
    "missing data folder": Mistake(
        ("preprocess", "--raw", "data/nowhere", "--shards", "artifacts/again"),
        ("data/nowhere", "does not exist", "dataset.root"),
    ),
    "label of an unknown class": Mistake(
        PREPROCESS, ("labels.csv line 2", "'unicorn'", "valid names: grass, sky, sand, sea"), label_of_an_unknown_class
    ),
    "image without label": Mistake(PREPROCESS, ("labels.csv", "'stranger.jpg'", "no row"), image_without_label),
    "label without image": Mistake(
        PREPROCESS, ("labels.csv line 2", "photo000.jpg", "add the file"), label_without_image
    ),
    "unreadable image": Mistake(PREPROCESS, (FIRST, "no readable image", "replace the file"), unreadable_image),
    "mask of another size": Mistake(PREPROCESS, ("masks/photo000.png", "7x5", "one size"), mask_of_another_size),
    "mask with an unknown value": Mistake(
        PREPROCESS, ("masks/photo000.png", "[77]", "0 to 3"), mask_with_an_unknown_value
    ),
    "background that is no class": Mistake(
        (*PREPROCESS, "--set", "dataset.background=void", "--set", "extract_pseudomasks.fill=ignore"),
        ("dataset.background 'void'", "grass, sky, sand, sea"),
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
    "missing upstream artifact": Mistake(
        ("extract-pseudomasks", "--shards", "artifacts/shards", "--pruned", "artifacts/pruned"),
        ("extract-pseudomasks", "--pruned artifacts/pruned", "missing", "prune-heads", "dvc repro extract_pseudomasks"),
    ),
    "a folder that holds no model": Mistake(
        ("extract-pseudomasks", "--shards", "artifacts/shards", "--pruned", "data/photos"),
        ("data/photos", "model.json", "train-classifier and prune-heads write one"),
    ),
    "damaged shards index": Mistake(
        TRAIN, ("artifacts/shards/index.json", "damaged", "run its stage again"), damaged_index
    ),
    "shards of a later version": Mistake(TRAIN, ("artifacts/shards/index.json", "version 2"), index_of_a_later_version),
    "shard cut short": Mistake(TRAIN, ("artifacts/shards/train-00000.tar", "damaged", "1000 bytes"), shard_cut_short),
    "nothing to unpack": Mistake(("unpack", "data/photos", "png"), ("data/photos/index.json", "missing")),
}


@pytest.fixture(scope="module")
def prepared(photograph_tree, tmp_path_factory):
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
    unreadable_image(tree.root)
    assert tree.try_run("ctm", "preprocess", "--raw", "data/photos").returncode == 1
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before
