"""Stage extract_pseudomasks: shards of masks that fit the images key by key, and say how they were made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ctm.data.shards import ShardFolder
from ctm.errors import ArtifactError, ParamsError
from ctm.evaluation.scoring import score_classifier
from ctm.models.io import load_classifier
from ctm.pseudomasks.ranking import has_learned
from ctm.pseudomasks.recipes import parse_recipe
from ctm.runtime.context import Part
from ctm.runtime.digest import digest_artifact
from tests.stage_commands import Commands
from tests.stages.conftest import contents


def test_masks_are_aligned_with_the_images_by_key(pipeline, tiny_shards):
    masks = ShardFolder.open(pipeline.path("extract_pseudomasks", "pseudomasks"))
    assert masks.index.kind == "masks"
    assert masks.classes == tiny_shards.classes
    for name in ("train", "val"):
        images, pseudo = tiny_shards.split(name), masks.split(name)
        assert pseudo.keys == images.keys
        assert np.array_equal(pseudo.sizes, images.sizes)
        assert np.array_equal(pseudo.labels, images.labels)
        assert all(pseudo.mask(index, "png").shape == (32, 32) for index in range(len(pseudo)))


def test_the_artifact_records_how_it_was_made(pipeline, tiny_params):
    about = ShardFolder.open(pipeline.path("extract_pseudomasks", "pseudomasks")).index.about
    assert about == tiny_params.extract_pseudomasks.model_dump(mode="json")
    assert about["label_source"] == "image"


COUNTS = ("samples", "empty", "coverage")


def counts(metrics: Any) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(split[count] for count in COUNTS) for name, split in metrics.items()}


def test_the_metrics_count_samples_empty_masks_and_coverage(pipeline):
    assert counts(pipeline.metrics("extract_pseudomasks")) == {"train": (24, 0, 1.0), "val": (8, 0, 1.0)}


def test_the_metrics_say_how_well_the_classifier_knows_the_images(pipeline, tiny_shards):
    model, classes, inputs = load_classifier(pipeline.path("prune_heads", "pruned"))
    for name, found in pipeline.metrics("extract_pseudomasks").items():
        split = tiny_shards.split(name)
        work: dict[str, Any] = {"device": torch.device("cpu"), "batch_size": 5, "workers": 0}
        expected = score_classifier(model, split, inputs, classes=classes, **work)
        assert found["map"] == pytest.approx(expected["map"])
        assert found["chance_map"] == pytest.approx(expected["chance_map"])
        assert found["learned"] == has_learned(found["map"], found["chance_map"])


def spoilt(pipeline: Any, folder: Path) -> Path:
    """The pruned classifier with a head of zeros: it gives every image the same logits."""
    shutil.copytree(pipeline.path("prune_heads", "pruned"), folder)
    weights = load_file(folder / "model.safetensors")
    head = [name for name in weights if name.startswith("head.")]
    save_file(weights | {name: torch.zeros_like(weights[name]) for name in head}, folder / "model.safetensors")
    return folder


def test_a_classifier_that_has_not_learned_is_a_loud_warning(pipeline, tmp_path, caplog):
    metrics = pipeline.run("extract_pseudomasks", tmp_path / "out", pruned=spoilt(pipeline, tmp_path / "spoilt"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert metrics["train"]["learned"] is False
    assert metrics["train"]["map"] <= metrics["train"]["chance_map"]
    expected = f"hardly learned: its train mAP is {metrics['train']['map']:.3f}, and a random ranking gets"
    assert any(expected in warning for warning in warnings)


def test_the_confidence_is_a_member_beside_each_mask(changed, pipeline, tmp_path):
    plain = ShardFolder.open(pipeline.path("extract_pseudomasks", "pseudomasks")).split("val")
    assert plain.members == ("logits.npy", "png")
    pipeline.run("extract_pseudomasks", tmp_path, params=changed(extract_pseudomasks={"confidence": True}))
    masks = ShardFolder.open(tmp_path / "artifacts/pseudomasks").split("val")
    assert masks.members == ("confidence", "logits.npy", "png")
    for index in range(len(masks)):
        assert masks.read(index, "png") == plain.read(index, "png")
        confidence = masks.mask(index, "confidence")
        assert confidence.shape == (32, 32)
        assert confidence.dtype == np.uint8
        assert confidence.min() >= 255 // masks.labels[index].sum()


AUTO = {"strategy": "auto", "auto": ("relevance+pamr", "attention+argmax"), "auto_images": 4}


def test_auto_extracts_by_the_chosen_recipe_and_records_it(changed, pipeline, tmp_path):
    metrics = pipeline.run("extract_pseudomasks", tmp_path / "auto", params=changed(extract_pseudomasks=AUTO))
    chosen = metrics["chosen"]
    assert chosen["recipe"] in AUTO["auto"]
    assert set(chosen["scores"]) == set(AUTO["auto"])
    found = ShardFolder.open(tmp_path / "auto/artifacts/pseudomasks")
    assert found.index.about["chosen"] == chosen
    assert found.index.about["strategy"] == "auto"
    by_hand = changed(extract_pseudomasks=parse_recipe(chosen["recipe"]))
    pipeline.run("extract_pseudomasks", tmp_path / "hand", params=by_hand)
    auto, hand = (contents(tmp_path / way / "artifacts/pseudomasks") for way in ("auto", "hand"))
    assert auto | {"index.json": b""} == hand | {"index.json": b""}


def test_a_part_chooses_by_the_whole_train_split(changed, pipeline, extract_part, tmp_path):
    params = changed(extract_pseudomasks={**AUTO, "splits": ("val",)})
    whole = pipeline.run("extract_pseudomasks", tmp_path / "whole", params=params)
    part = extract_part(params, Part(2, 2), tmp_path / "part")
    assert part["chosen"] == whole["chosen"]


def test_nothing_but_the_shards_bytes_depends_on_the_run(pipeline, tmp_path):
    pipeline.run("extract_pseudomasks", tmp_path)
    expected = contents(pipeline.path("extract_pseudomasks", "pseudomasks"))
    assert contents(tmp_path / "artifacts/pseudomasks") == expected


def test_empty_predictions_are_counted_and_ignored(changed, pipeline, tmp_path):
    params = changed(extract_pseudomasks={"label_source": "predicted", "threshold": 0.999, "splits": ("val",)})
    metrics = pipeline.run("extract_pseudomasks", tmp_path, params=params)
    assert counts(metrics) == {"val": (8, 8, 0.0)}
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
def test_a_wrong_setting_writes_nothing(changed, pipeline, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        pipeline.run("extract_pseudomasks", tmp_path, params=changed(extract_pseudomasks=settings))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_classifier_of_other_classes_is_refused(pipeline, tiny_shards, tmp_path):
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


def test_a_part_has_its_share_of_every_split_in_whole_batches(pipeline, extract_part, tiny_params, tmp_path):
    metrics = extract_part(tiny_params, Part(2, 3), tmp_path)
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


def test_a_part_reads_no_image_of_another(extract_part, tiny_shards, tiny_params, rewrite, tmp_path):
    damaged = rewrite(tiny_shards, {}).path
    for name, last in (("train", 9), ("val", 4)):  # the last image of the first part
        file = damaged / f"{name}-00000.tar"
        whole = file.read_bytes()
        half = whole.index(tiny_shards.split(name).keys[last + 1].encode() + b".npy")
        file.write_bytes(bytes(half) + whole[half:])
    metrics = extract_part(tiny_params, Part(2, 2), tmp_path / "second", shards=damaged)
    assert metrics["train"]["samples"] + metrics["val"]["samples"] == 24 + 8 - 10 - 5
    with pytest.raises(ArtifactError, match="damaged"):
        extract_part(tiny_params, Part(1, 2), tmp_path / "first", shards=damaged)


CANDIDATES = {"tokens": "candidates", "tokens_tolerance": 1.0, "batch_size": 2}  # windows of 16 images


def test_masks_from_the_candidates_tokens_say_so_and_claim_no_map(changed, pipeline, tmp_path, caplog):
    metrics = pipeline.run("extract_pseudomasks", tmp_path, params=changed(extract_pseudomasks=CANDIDATES))
    found = ShardFolder.open(tmp_path / "artifacts/pseudomasks")
    for name, images in (("train", 24), ("val", 8)):
        assert counts(metrics)[name] == (images, 0, 1.0)
        assert [metrics[name][figure] for figure in ("map", "chance_map", "learned")] == [None] * 3
        assert metrics[name]["tokens"]["used"] == "candidates"
        assert metrics[name]["tokens"]["images"] == images
        assert 0 <= metrics[name]["tokens"]["difference"] < 1
    assert found.index.about["tokens_used"] == {name: metrics[name]["tokens"] for name in ("train", "val")}
    assert "hardly learned" not in caplog.text


def test_beyond_the_tolerance_the_masks_are_those_of_all_tokens_and_the_map_is_known(
    changed, pipeline, tmp_path, caplog
):
    params = changed(extract_pseudomasks=CANDIDATES | {"tokens_tolerance": 0.0, "batch_size": 5})
    metrics = pipeline.run("extract_pseudomasks", tmp_path, params=params)
    assert "all tokens are used" in caplog.text
    plain = pipeline.metrics("extract_pseudomasks")
    for name in ("train", "val"):
        assert metrics[name]["tokens"]["used"] == "all"
        assert metrics[name]["tokens"]["difference"] > 0
        assert {key: value for key, value in metrics[name].items() if key != "tokens"} == plain[name]
        shard = f"artifacts/pseudomasks/{name}-00000.tar"
        assert (tmp_path / shard).read_bytes() == (pipeline.root / shard).read_bytes()


def test_parts_choose_their_tokens_by_the_whole_split_and_have_its_masks(changed, extract_part, tmp_path):
    params = changed(extract_pseudomasks={**CANDIDATES, "splits": ("train",), "refinement": "pamr"})
    whole = extract_part(params, Part(1, 1), tmp_path / "whole")
    masks, keys = ShardFolder.open(tmp_path / "whole").split("train"), []
    for number in (1, 2):
        metrics = extract_part(params, Part(number, 2), tmp_path / str(number))
        assert metrics["train"]["tokens"] == whole["train"]["tokens"]
        part = ShardFolder.open(tmp_path / str(number)).split("train")
        for own, key in enumerate(part.keys):
            assert part.read(own, "png") == masks.read(masks.index_of(key), "png")
        keys.append(part.keys)
    assert [len(found) for found in keys] == [16, 8]
    assert [key for found in keys for key in found] == list(masks.keys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "part"),
    [({}, "2/2"), ({"strategy": "auto", "auto_images": 8}, "1/1"), ({"tokens": "candidates"}, "1/1")],
    ids=str,
)
def test_two_processes_write_the_bytes_of_one(changed, pipeline, tmp_path, changes, part):
    params = changed(extract_pseudomasks={"batch_size": 2, **changes})
    extractions = Commands("extract_pseudomasks", params, pipeline.inputs("extract_pseudomasks"), tmp_path)
    for name, processes in (("one", 1), ("two", 2)):
        code, log = extractions.run(name, "--part", part, processes=processes)
        assert code == 0, log
    assert contents(extractions.folder("two")) == contents(extractions.folder("one"))
    metrics = [(tmp_path / name / "metrics" / "extract_pseudomasks.json").read_bytes() for name in ("one", "two")]
    assert metrics[0] == metrics[1]
