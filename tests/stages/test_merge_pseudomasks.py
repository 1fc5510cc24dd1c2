"""Stage merge_pseudomasks: parts become the very bytes of an undivided run, or one clear error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctm.data.classes import ClassTable
from ctm.data.sample import encode_array, encode_mask
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import ShardFolder
from ctm.errors import ArtifactError
from ctm.params import Params, stage_config, to_yaml
from ctm.runtime.context import WHOLE, Context, Part
from ctm.runtime.digest import digest_artifact
from ctm.stages import JOINS
from tests.stages.conftest import contents

MERGE = JOINS["merge_pseudomasks"]


@pytest.fixture(scope="module")
def parts_of(extract_part, tiny_params: Params, tmp_path_factory) -> Callable[..., list[Path]]:
    """Extracts the pseudo-masks of the tiny pipeline in so many parts; each number of parts is made once."""
    made: dict[int, list[Path]] = {}

    def extract(count: int) -> list[Path]:
        if count not in made:
            root = tmp_path_factory.mktemp(f"parts{count}")
            made[count] = [root / str(number) for number in range(1, count + 1)]
            for number, folder in enumerate(made[count], 1):
                extract_part(tiny_params, Part(number, count), folder)
        return made[count]

    return extract


@pytest.fixture
def merge(tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path) -> Callable[..., Any]:
    """Joins parts into ``tmp_path / "merged"``; returns the metrics."""

    def merged(parts: Sequence[Path], *, shards: Path = tiny_shards.path, params: Params = tiny_params) -> Any:
        config = stage_config(params, MERGE.config)
        context = Context(device="cpu", workers=0, checkpoints=Path("unused"), resume=True, part=WHOLE)
        return MERGE.run(config, context, shards=shards, parts=parts, pseudomasks=tmp_path / "merged")

    return merged


@pytest.fixture
def altered(tmp_path: Path) -> Callable[[Path, Callable[[Any], None]], Path]:
    """A copy of a part whose index a function has changed."""

    def alter(part: Path, change: Callable[[Any], None]) -> Path:
        copy = tmp_path / f"altered-{part.name}"
        shutil.copytree(part, copy)
        index = json.loads((copy / "index.json").read_text())
        change(index)
        (copy / "index.json").write_text(json.dumps(index))
        return copy

    return alter


# batches of 5: train has 24 images in 5 batches, val 8 in 2
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_parts_become_the_bytes_and_metrics_of_an_undivided_run(pipeline, parts_of, merge, tmp_path, count):
    metrics = merge(parts_of(count))
    assert contents(tmp_path / "merged") == contents(pipeline.path("extract_pseudomasks", "pseudomasks"))
    assert metrics == pipeline.metrics("extract_pseudomasks")


SPECIAL = {"strategy": "auto", "auto": ("relevance+pamr", "gradcam"), "auto_images": 3, "confidence": True}


@pytest.fixture(scope="module")
def special(extract_part, changed, tmp_path_factory) -> tuple[Params, list[Path]]:
    """Parameters with a choice and a confidence; the whole made with them, and its three parts."""
    params = changed(extract_pseudomasks=SPECIAL)
    root = tmp_path_factory.mktemp("special")
    for number, part in enumerate([WHOLE, *(Part(k, 3) for k in (1, 2, 3))]):
        metrics = extract_part(params, part, root / str(number))
        (root / f"{number}.json").write_text(json.dumps(metrics))
    return params, [root / str(number) for number in range(4)]


@pytest.mark.parametrize("given", [slice(0, 1), slice(1, 4)], ids=["whole", "parts"])
def test_confidence_choice_and_classifier_scores_are_joined_too(special, merge, tmp_path, given):
    params, folders = special
    metrics = merge(folders[given], params=params)
    assert contents(tmp_path / "merged") == contents(folders[0])
    assert json.dumps(metrics) == folders[0].with_suffix(".json").read_text()
    assert metrics["chosen"]["recipe"] in SPECIAL["auto"]
    assert metrics["train"]["map"] > 0


def test_tokens_of_the_candidates_are_joined_too_and_must_be_used_by_all_parts(
    extract_part, changed, tmp_path, merge, altered
):
    settings = {"tokens": "candidates", "tokens_tolerance": 1.0, "batch_size": 1}  # windows of 8 images
    params = changed(extract_pseudomasks=settings)
    whole, *parts = (tmp_path / name for name in ("whole", "1-2", "2-2"))
    metrics = extract_part(params, WHOLE, whole)
    for number, folder in enumerate(parts, 1):
        extract_part(params, Part(number, 2), folder)
    assert json.dumps(merge(parts, params=params)) == json.dumps(metrics)
    assert contents(tmp_path / "merged") == contents(whole)
    other = altered(parts[1], lambda index: index["about"]["tokens_used"]["val"].update(used="all"))
    with pytest.raises(ArtifactError, match=r"altered-2-2 was made from the tokens .*all but the tolerance\. Set"):
        merge([parts[0], other], params=params)
    plain = altered(parts[0], lambda index: index["about"].pop("tokens_used"))
    with pytest.raises(ArtifactError, match="does not fit tokens candidates"):
        merge([plain, parts[1]], params=params)


def test_parts_that_chose_differently_are_refused(special, merge, altered):
    params, (_, first, second, third) = special
    other = altered(second, lambda index: index["about"]["chosen"].update(recipe="cam"))
    with pytest.raises(ArtifactError, match=r"altered-2 chose .*all but equal\. Set strategy, assignment and"):
        merge([first, other, third], params=params)
    without = altered(third, lambda index: index["about"].pop("chosen"))
    with pytest.raises(ArtifactError, match="altered-3: its index does not fit the strategy auto; run extract"):
        merge([first, second, without], params=params)


LOGITS = r"the logits of \S+ in split 'val' are damaged .*; run extract"
MASK = r"broken/val-00000.tar is damaged: \S+ cannot be decoded; run its stage"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"\x93NUMPY", b"XXXXXX", LOGITS),
        (b"<f4", b"<i4", LOGITS),
        (b"(8,)", b"(7,)", LOGITS),
        (b"IDAT", b"DATA", MASK),
    ],
)
def test_damaged_logits_and_masks_are_named(parts_of, merge, tmp_path, old, new, message):
    broken = tmp_path / "broken"
    shutil.copytree(parts_of(2)[1], broken)
    file = broken / "val-00000.tar"
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    with pytest.raises(ArtifactError, match=message):
        merge([parts_of(2)[0], broken])


def test_merging_warns_of_a_classifier_that_has_not_learned(parts_of, merge, caplog):
    metrics = merge(parts_of(2))
    warned = [name for name in metrics if any(f"its {name} mAP is" in line for line in caplog.messages)]
    assert warned == [name for name, split in metrics.items() if not split["learned"]]


def test_parts_may_be_given_in_any_order(pipeline, parts_of, merge, tmp_path):
    first, second, third = parts_of(3)
    merge([third, first, second])
    assert contents(tmp_path / "merged") == contents(pipeline.path("extract_pseudomasks", "pseudomasks"))


def test_a_part_may_be_empty_and_is_a_valid_artifact(parts_of):
    sizes = [[len(ShardFolder.open(part).split(name)) for name in ("train", "val")] for part in parts_of(7)]
    assert [sum(column) for column in zip(*sizes, strict=True)] == [24, 8]
    assert [0, 0] in sizes


def test_labels_and_georeferences_are_joined_too(parts_of, merge, tiny_shards, tmp_path):
    merge(parts_of(2))
    masks, images = ShardFolder.open(tmp_path / "merged").split("val"), tiny_shards.split("val")
    assert np.array_equal(masks.labels, images.labels)
    assert masks.georeference(7) == images.georeference(7) is not None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no part of the pseudo-masks is given: name each of them with --parts"),
        ([1], r"of the 3 parts of the pseudo-masks, 1, 3 are missing"),
        ([0, 2], r"of the 3 parts of the pseudo-masks, 2 is missing: name each part with --parts"),
        ([0, 1, 1, 2], r"the same part of the pseudo-masks is given twice \(.*/2, .*/2\)"),
    ],
    ids=["none", "two missing", "one missing", "doubled"],
)
def test_a_missing_or_doubled_part_is_named(parts_of, merge, tmp_path, given, message):
    with pytest.raises(ArtifactError, match=message):
        merge([parts_of(3)[number] for number in given])
    assert not (tmp_path / "merged").exists()


def test_parts_of_different_divisions_are_refused(parts_of, merge):
    with pytest.raises(ArtifactError, match=r"is part 2 of 2, .* one of 3: they come from different runs; run extract"):
        merge([parts_of(3)[0], parts_of(2)[1], parts_of(3)[2]])


def test_a_whole_among_parts_is_refused(pipeline, parts_of, merge):
    whole = pipeline.path("extract_pseudomasks", "pseudomasks")
    with pytest.raises(ArtifactError, match=f"{whole} is a whole and no part"):
        merge([whole, parts_of(2)[1]])


def test_parts_made_with_other_settings_are_refused(parts_of, merge, changed):
    params = changed(extract_pseudomasks={"strategy": "attention", "batch_size": 6})
    message = r"other settings.*\(strategy relevance, now attention, batch_size 5, now 6\); run extract-pseudomasks for"
    for count in (1, 2):
        with pytest.raises(ArtifactError, match=message):
            merge(parts_of(count), params=params)


def test_parts_made_from_other_images_are_refused(parts_of, merge, tiny_shards, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_shards.path, other)
    (other / "index.json").write_bytes((other / "index.json").read_bytes() + b"\n")
    with pytest.raises(ArtifactError, match=r"/1 was made from other images than those of --shards; run extract"):
        merge(parts_of(2), shards=other)


def swap_classes(index: Any) -> None:
    index["classes"][0], index["classes"][1] = index["classes"][1], index["classes"][0]


UNREADABLE = r"altered-2: its index names no part that can be read; run"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda index: index["about"]["part"].update(pruned="0" * 64),
            "come from different classifiers; run extract-pseudomasks for every part",
        ),
        (swap_classes, r"part 2/2 .* and shards were made for other classes"),
        (lambda index: index["about"]["part"].update(number=0), UNREADABLE),
        (lambda index: index["about"]["part"].update(number=3), UNREADABLE),
        (lambda index: index["about"]["part"].update(number="two"), UNREADABLE),
    ],
)
def test_a_part_that_does_not_fit_the_others_or_cannot_be_read_is_refused(parts_of, merge, altered, change, message):
    with pytest.raises(ArtifactError, match=message):
        merge([parts_of(2)[0], altered(parts_of(2)[1], change)])


def test_images_are_no_pseudomasks(parts_of, merge, tiny_shards):
    with pytest.raises(ArtifactError, match="holds images, no pseudo-masks: give the parts as --parts"):
        merge([tiny_shards.path, parts_of(2)[1]])


def test_masks_that_do_not_fit_the_images_key_by_key_are_refused(pipeline, merge, tiny_shards, rewrite, tmp_path):
    whole = pipeline.path("extract_pseudomasks", "pseudomasks")
    keys = tiny_shards.split("train").keys

    def shortened(name: str, chosen: Sequence[int]) -> Path:
        index = tiny_shards.index
        with ShardWriter(tmp_path / name, "train", classes=tiny_shards.classes) as writer:
            for number in chosen:
                key = keys[number] if number < len(keys) else "stranger"
                writer.add(key, {"npy": b""}, labels=(), height=1, width=1)
        splits = index.splits | {"train": writer.entry}
        for file in tiny_shards.path.glob("val*"):
            shutil.copy(file, tmp_path / name)
        write_index(tmp_path / name, index.model_copy(update={"splits": splits}))
        return tmp_path / name

    with pytest.raises(ArtifactError, match=rf"split 'train' has the mask of '{keys[23]}' behind the last image; run"):
        merge([whole], shards=shortened("fewer", range(23)))
    with pytest.raises(ArtifactError, match=r"split 'train' has 25 images, but the parts hold 24 masks; run extract"):
        merge([whole], shards=shortened("more", range(25)))
    with pytest.raises(ArtifactError, match=rf"has the mask of '{keys[0]}' where that of '{keys[1]}' belongs; run"):
        merge([whole], shards=shortened("other order", [1, 0, *range(2, 24)]))


CLASSES = ClassTable(("grass", "sea"))


def test_memory_does_not_grow_with_the_masks(tmp_path, tiny_params, merge):
    """400 masks of 160 kB are joined with room for a few of them."""
    mask = np.random.default_rng(0).integers(0, 2, size=(400, 400), dtype=np.uint8)
    png = encode_mask(mask)
    about = tiny_params.extract_pseudomasks.model_dump(mode="json")

    def write(name: str, kind: Any, samples: range, **part: Any) -> Path:
        entries = {}
        for split in ("train", "val"):
            with ShardWriter(tmp_path / name, split, classes=CLASSES, shard_mb=1) as writer:
                for number in samples:
                    members = {"png": png, "logits.npy": encode_array(np.zeros(2, dtype=np.float32))}
                    writer.add(f"s{number:04d}", members, labels=(0,), height=400, width=400)
            entries[split] = writer.entry
        facts = about | ({"part": part} if part else {})
        index = ShardIndex(kind=kind, classes=CLASSES.names, background=None, splits=entries, about=facts)
        write_index(tmp_path / name, index)
        return tmp_path / name

    shards = write("images", "images", range(200))
    digests = {"shards": digest_artifact(shards), "pruned": "0"}
    halves = [(1, range(100)), (2, range(100, 200))]
    parts = [write(f"p{k}", "masks", samples, number=k, count=2, **digests) for k, samples in halves]
    tracemalloc.start()
    try:
        merge(parts, shards=shards)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * mask.nbytes


def test_the_command_joins_parts_without_torch(pipeline, parts_of, tiny_params, tmp_path):
    (tmp_path / "params.yaml").write_text(to_yaml(tiny_params), encoding="utf-8")
    parts = [word for part in parts_of(3) for word in ("--parts", str(part))]
    command = ["merge-pseudomasks", "--shards", str(pipeline.path("preprocess", "shards")), *parts]
    code = "import sys; sys.modules['torch'] = None\nfrom ctm.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "artifacts/pseudomasks") == contents(pipeline.path("extract_pseudomasks", "pseudomasks"))
    metrics = json.loads((tmp_path / "metrics/merge_pseudomasks.json").read_text())
    assert metrics == pipeline.metrics("extract_pseudomasks")
