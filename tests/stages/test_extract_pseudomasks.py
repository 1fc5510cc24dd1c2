"""Stage extract_pseudomasks: shards of masks that fit the images key by key, and say how they were made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctm.data.shards import ShardFolder
from ctm.errors import ArtifactError, ParamsError
from ctm.params import Params, stage_config
from ctm.runtime.context import Context, Part
from ctm.runtime.digest import digest_artifact
from ctm.stages import STAGES


def with_settings(params: Params, **settings: Any) -> Params:
    extraction = params.extract_pseudomasks.model_copy(update=settings)
    return params.model_copy(update={"extract_pseudomasks": extraction})


def test_masks_are_aligned_with_the_images_by_key(pipeline: Any, tiny_shards: ShardFolder):
    masks = ShardFolder.open(pipeline.path("extract_pseudomasks", "pseudomasks"))
    assert masks.index.kind == "masks"
    assert masks.classes == tiny_shards.classes
    for name in ("train", "val"):
        images, pseudo = tiny_shards.split(name), masks.split(name)
        assert pseudo.keys == images.keys
        assert np.array_equal(pseudo.sizes, images.sizes)
        assert np.array_equal(pseudo.labels, images.labels)
        assert all(pseudo.mask(index, "png").shape == (32, 32) for index in range(len(pseudo)))


def test_the_artifact_records_how_it_was_made(pipeline: Any, tiny_params: Params):
    about = ShardFolder.open(pipeline.path("extract_pseudomasks", "pseudomasks")).index.about
    assert about == tiny_params.extract_pseudomasks.model_dump(mode="json")
    assert about["label_source"] == "image"


def test_the_metrics_count_samples_empty_masks_and_coverage(pipeline: Any):
    assert pipeline.metrics("extract_pseudomasks") == {
        "train": {"samples": 24, "empty": 0, "coverage": 1.0},
        "val": {"samples": 8, "empty": 0, "coverage": 1.0},
    }


def test_nothing_but_the_shards_bytes_depends_on_the_run(pipeline: Any, tmp_path: Path):
    pipeline.run("extract_pseudomasks", tmp_path)
    for file in pipeline.path("extract_pseudomasks", "pseudomasks").iterdir():
        assert (tmp_path / "artifacts/pseudomasks" / file.name).read_bytes() == file.read_bytes()


def test_empty_predictions_are_counted_and_ignored(pipeline: Any, tiny_params: Params, tmp_path: Path):
    params = with_settings(tiny_params, label_source="predicted", threshold=0.999, splits=("val",))
    metrics = pipeline.run("extract_pseudomasks", tmp_path, params=params)
    assert metrics == {"val": {"samples": 8, "empty": 8, "coverage": 0.0}}
    masks = ShardFolder.open(tmp_path / "artifacts/pseudomasks")
    assert masks.splits == ("val",)
    assert (masks.split("val").mask(0, "png") == 255).all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"splits": ("train", "tune")}, ArtifactError, "no split 'tune'; splits: train, val"),
        ({"fill": "background"}, ParamsError, r"dataset\.background"),
        ({"blocks": 3}, ParamsError, "blocks is 3, but the classifier has 2"),
    ],
)
def test_a_wrong_setting_writes_nothing(
    pipeline: Any, tiny_params: Params, tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        pipeline.run("extract_pseudomasks", tmp_path, params=with_settings(tiny_params, **settings))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_classifier_of_other_classes_is_refused(pipeline: Any, tiny_shards: ShardFolder, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(tiny_shards.path, other)
    index = json.loads((other / "index.json").read_text())
    index["classes"][0], index["classes"][1] = index["classes"][1], index["classes"][0]
    for split in index["splits"].values():
        split["labels"] = dict(split["labels"])
    (other / "index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match="pruned and shards were made for other classes"):
        pipeline.run("extract_pseudomasks", tmp_path, shards=other)
    assert not (tmp_path / "artifacts/pseudomasks").exists()


def run_part(pipeline: Any, params: Params, part: Part, folder: Path, **inputs: Path) -> Any:
    stage = STAGES["extract_pseudomasks"]
    context = Context(device="cpu", workers=0, checkpoints=folder / "unused", resume=True, part=part)
    given = {**pipeline.inputs("extract_pseudomasks"), **inputs}
    return stage.run(stage_config(params, stage.config), context, **given, pseudomasks=folder)


def test_a_part_has_its_share_of_every_split_in_whole_batches(pipeline: Any, tiny_params: Params, tmp_path: Path):
    metrics = run_part(pipeline, tiny_params, Part(2, 3), tmp_path)
    assert {name: split["samples"] for name, split in metrics.items()} == {"train": 10, "val": 5}
    whole = ShardFolder.open(pipeline.path("extract_pseudomasks", "pseudomasks"))
    part = ShardFolder.open(tmp_path)
    for name, first, last in (("train", 5, 15), ("val", 0, 5)):
        masks, own = whole.split(name), part.split(name)
        assert own.keys == masks.keys[first:last]
        assert np.array_equal(own.labels, masks.labels[first:last])
        found = [own.read(i, "png") for i in range(len(own))]
        assert found == [masks.read(i, "png") for i in range(first, last)]
    about = part.index.about
    assert about.pop("part") == {
        "number": 2,
        "count": 3,
        "shards": digest_artifact(pipeline.path("preprocess", "shards")),
        "pruned": digest_artifact(pipeline.path("prune_heads", "pruned")),
    }
    assert about == whole.index.about


def test_a_part_reads_no_image_of_another(
    pipeline: Any, tiny_shards: ShardFolder, tiny_params: Params, rewrite: Any, tmp_path: Path
):
    damaged = rewrite(tiny_shards, {}).path
    for name, last in (("train", 9), ("val", 4)):  # the last image of the first part
        file = damaged / f"{name}-00000.tar"
        whole = file.read_bytes()
        half = whole.index(tiny_shards.split(name).keys[last + 1].encode() + b".npy")
        file.write_bytes(bytes(half) + whole[half:])
    metrics = run_part(pipeline, tiny_params, Part(2, 2), tmp_path / "second", shards=damaged)
    assert metrics["train"]["samples"] + metrics["val"]["samples"] == 24 + 8 - 10 - 5
    with pytest.raises(ArtifactError, match="damaged"):
        run_part(pipeline, tiny_params, Part(1, 2), tmp_path / "first", shards=damaged)
