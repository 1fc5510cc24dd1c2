"""What all readers of raw data promise: what they give can be sent, pictures are read late, and parameters must fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctm.data.datasets.reader import RawFile
from ctm.data.datasets.voc2012 import CLASS_NAMES
from ctm.errors import ParamsError
from ctm.runtime.storage import open_tree
from tests.miniatures.samples import keys, opened
from tests.miniatures.sets import SETS

pytest.importorskip("rasterio", reason="needs the extra 'data'")
pytest.importorskip("scipy", reason="writes the .mat files")


@pytest.mark.parametrize("name", SETS)
def test_entries_and_what_decodes_them_can_be_sent_and_give_the_same_sample(tmp_path: Path, name: str) -> None:
    SETS[name].write(tmp_path)
    dataset, tree = opened(SETS[name].config, tmp_path), open_tree(str(tmp_path))
    entry = dataset.splits["train"][0]
    files = {role: RawFile(tree.place(path), tree.read(path)) for role, path in entry.files.items()}
    sent = pickle.dumps(dataset.decode)
    assert len(sent) < 4000, "without the lists"
    first, second = dataset.decode(entry, files), pickle.loads(sent)(pickle.loads(pickle.dumps(entry)), files)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert (first.image, first.labels, first.notes) == (second.image, second.labels, second.notes)


@pytest.mark.parametrize("name", ["voc2012", "sbd", "coco2014", "ade20k", "dfc2020", "endotect", "folder"])
def test_opening_reads_no_picture(tmp_path: Path, name: str) -> None:
    SETS[name].write(tmp_path)
    before = keys(opened(SETS[name].config, tmp_path))
    for path in tmp_path.rglob("*"):
        if path.suffix in {".jpg", ".png", ".tif", ".mat", ".bmp"}:
            path.write_bytes(b"")
    assert keys(opened(SETS[name].config, tmp_path)) == before


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("voc2012", {"channels": 4}, "dataset.channels is 4, but format 'voc2012' has 3"),
        ("coco2014", {"channels": 4}, "dataset.channels is 4, but format 'coco2014' has 3"),
        ("ade20k", {"channels": 1}, "dataset.channels is 1, but format 'ade20k' has 3"),
        ("endotect", {"channels": 1}, "dataset.channels is 1, but format 'endotect' has 3"),
        ("dfc2020", {"channels": 3}, "dataset.channels is 3, but format 'dfc2020' has 15"),
        ("folder", {"channels": 4}, r"dataset.channels is 4, but .*a.jpg is a photograph, which has 3"),
        ("voc2012", {"background": None}, r"dataset\.background is None.*`--set dataset\.background=background`"),
        ("coco2014", {"background": "dog"}, r"dataset\.background is 'dog'.*`--set dataset\.background=background`"),
        ("endotect", {"background": None}, "format 'endotect' needs a background"),
        ("endotect", {"background": "polyps"}, "format 'endotect' needs a background"),
        ("folder", {"background": "void"}, "'void' is no class; valid names: grass, sand, sea"),
        ("voc2012", {"background": "void"}, "'void' is no class"),
        ("coco2014", {"background": "sky"}, "dataset.background 'sky' is no class"),
        ("endotect", {"background": "sky"}, "dataset.background 'sky' is no class"),
        ("voc2012", {"classes": CLASS_NAMES[:20]}, "has 20 names, but format 'voc2012' has 21 classes"),
        ("coco2014", {"classes": ("background", "person")}, "has 2 names, but format 'coco2014' has 81 classes"),
        ("dfc2020", {"classes": ("x",)}, "dataset.classes has 1 names, but format 'dfc2020' has 8 classes: Forest, "),
        ("endotect", {"classes": ("background", "polyp")}, "has 'polyp', which is no finding .* cecum, ileum"),
        ("endotect", {"classes": ("background", "polyps", "polyps")}, "class names must be unique"),
        ("folder", {"classes": ("sea", "sea")}, "these occur twice: sea"),
        (
            "coco2014",
            {"mask_encoding": "contiguous"},
            "mask_encoding is for dataset.labels_from: masks; set it to null",
        ),
    ],
)
def test_contradicting_parameters_are_params_errors(
    tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    SETS[name].write(tmp_path)
    with pytest.raises(ParamsError, match=message):
        opened(SETS[name].config.model_copy(update=change), tmp_path)
