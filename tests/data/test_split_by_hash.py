from __future__ import annotations

import pytest

from ctm.data.datasets.split_by_hash import split_by_hash


@pytest.mark.parametrize("share", [0.0, 0.7, 0.8, 1.0])
def test_train_gets_its_share(share: float) -> None:
    train = sum(split_by_hash(f"image_{number}", train_share=share) == "train" for number in range(5000))
    assert abs(train / 5000 - share) < 0.02


def test_splits_never_change() -> None:
    splits = {key: split_by_hash(key, train_share=0.7) for key in "abcdefgh"}
    assert [key for key, split in splits.items() if split == "val"] == ["a", "g"]
