"""The bench's plain extraction writes the masks that ctm writes, and its measure of extraction's memory works."""

from __future__ import annotations

import numpy as np
import pytest

from bench.extraction import Extraction, extraction_rows, same_masks
from bench.extraction_memory import extract_command, write_extraction_inputs
from bench.image_shards import write_image_shards
from bench.measure import allocated_megabytes
from bench.models import two_or_three
from bench.sizes import Setting, Sizes
from ctm.data.shards import ShardFolder

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Sizes(channels=3, image=(32, 40), patch=4, classes=5, depth=3, width=24, heads=4, batch=2)


@pytest.mark.parametrize("strategy", ["attention", "relevance"])
@pytest.mark.parametrize("channels", [3, 4])
def test_plain_extraction_gives_the_masks_of_ours(tmp_path, strategy, channels) -> None:
    sizes = Sizes(channels, (32, 40), 4, classes=5, depth=3, width=24, heads=4, batch=2)
    extraction = Extraction(Setting(sizes), tmp_path, strategy, images=3)
    plain, ours = extraction.plainly(), extraction.ours()
    assert len(plain) == len(ours) == 3
    for one, other, labels in zip(plain, ours, two_or_three(sizes, 3), strict=True):
        assert (one == other).mean() > 0.97
        assert set(np.unique(other).tolist()) == set(labels.nonzero().flatten().tolist())
    assert len(list((tmp_path / "plain0").glob("*.png"))) == 3


def test_masks_that_differ_are_seen() -> None:
    mask = np.zeros((10, 10), dtype=np.uint8)
    other = mask.copy()
    other[0, :3] = 1
    assert same_masks([mask], [mask])
    assert not same_masks([mask], [other])


def test_the_rows_of_extraction_are_attention_and_both_strategies() -> None:
    rows = list(extraction_rows(Setting(TINY)))
    assert [row.samples for row in rows] == [None, 2, 1]


def test_image_shards_hold_the_images_and_labels_that_are_asked_for(tmp_path) -> None:
    write_image_shards(tmp_path, TINY, 12)
    split = ShardFolder.open(tmp_path).split("train")
    assert (split.labels == two_or_three(TINY, 12).numpy()).all()
    assert split.image(11).shape == (3, 32, 40)


def test_the_command_of_extraction_whose_memory_is_measured_works(tmp_path) -> None:
    write_extraction_inputs(tmp_path, 20)
    assert allocated_megabytes(extract_command(tmp_path)) > 50
    assert len(ShardFolder.open(tmp_path / "pseudomasks").split("train")) == 20
