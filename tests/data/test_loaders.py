"""Batches: the same for any number of workers, masks joined by key, truth untouched unless asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from ctm.data.config import AugmentConfig
from ctm.data.inputs import InputSpec
from ctm.data.loaders import EpochSampler, ShardDataset, make_loader
from ctm.data.sample import encode_mask
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import ShardFolder, Split
from ctm.errors import ArtifactError

AUGMENT = AugmentConfig(flip="dihedral", min_crop=0.5)


@pytest.fixture
def inputs(shards: ShardFolder) -> InputSpec:
    return InputSpec(image_size=(16, 16), channels=3, scale=shards.scale, mean=shards.mean, std=shards.std)


def write_masks(shards: ShardFolder, folder: Path, samples: dict[str, dict[str, np.ndarray]]) -> Split:
    """Pseudo-masks of the train split: the masks of each key, by the members' names."""
    with ShardWriter(folder, "train", classes=shards.classes) as writer:
        for key, masks in samples.items():
            height, width = masks["png"].shape
            members = {name: encode_mask(mask) for name, mask in masks.items()}
            writer.add(key, members, labels=(0,), height=height, width=width)
    index = ShardIndex(kind="masks", classes=shards.classes.names, background=None, splits={"train": writer.entry})
    write_index(folder, index)
    return ShardFolder.open(folder).split("train")


def write_pseudomasks(shards: ShardFolder, folder: Path, *, keys: str, grow: int = 0) -> Split:
    """A mask full of the key's letter (a = 0, b = 1, c = 2), in the order of `keys`."""
    train = shards.split("train")
    masks = {key: np.full(train.sizes[train.index_of(key)] + grow, "abc".index(key), dtype=np.uint8) for key in keys}
    return write_masks(shards, folder, {key: {"png": mask} for key, mask in masks.items()})


def test_items_hold_input_labels_and_native_size(shards: ShardFolder, inputs: InputSpec) -> None:
    dataset = ShardDataset(shards.split("train"), inputs)
    assert len(dataset) == 3
    item = dataset[2]
    assert set(item) == {"index", "image", "labels", "size"}
    assert item["index"] == 2
    assert item["image"].shape == (3, 16, 16)
    assert item["image"].dtype == torch.float32
    assert item["labels"].tolist() == [True, True, True]
    assert item["labels"].dtype == torch.bool
    assert item["size"].tolist() == [24, 24]


def test_batches_collate(shards: ShardFolder, inputs: InputSpec) -> None:
    train = shards.split("train")
    dataset = ShardDataset(train, inputs, masks=train, mask_member="mask.png")
    (batch,) = make_loader(dataset, batch_size=3, shuffle=False, seed=0)
    assert batch["index"].tolist() == [0, 1, 2]
    assert batch["image"].shape == (3, 3, 16, 16)
    assert batch["mask"].shape == (3, 16, 16)
    assert batch["mask"].dtype == torch.int64
    assert batch["size"].tolist() == [[30, 20], [20, 30], [24, 24]]


def test_batches_do_not_depend_on_the_number_of_workers(shards: ShardFolder, inputs: InputSpec) -> None:
    runs = []
    for workers in (0, 1, 2):
        dataset = ShardDataset(shards.split("train"), inputs, augment=AUGMENT, seed=3)
        loader = make_loader(dataset, batch_size=1, shuffle=True, seed=3, workers=workers)
        batches = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            batches += list(loader)
        runs.append(batches)
    for other in runs[1:]:
        assert [batch["index"].tolist() for batch in other] == [batch["index"].tolist() for batch in runs[0]]
        assert all(torch.equal(one["image"], two["image"]) for one, two in zip(runs[0], other, strict=True))


def test_random_changes_depend_on_seed_epoch_and_index_alone(shards: ShardFolder, inputs: InputSpec) -> None:
    train = shards.split("train")
    dataset = ShardDataset(train, inputs, augment=AUGMENT, seed=1)
    first = dataset[(1, 5)]["image"]
    dataset[(0, 5)], dataset[(2, 0)]
    torch.manual_seed(99)
    assert torch.equal(dataset[(1, 5)]["image"], first)
    assert not torch.equal(dataset[(1, 6)]["image"], first)
    assert not torch.equal(ShardDataset(train, inputs, augment=AUGMENT, seed=2)[(1, 5)]["image"], first)


def test_loading_leaves_the_global_generator_alone(shards: ShardFolder, inputs: InputSpec) -> None:
    before = torch.get_rng_state()
    list(make_loader(ShardDataset(shards.split("train"), inputs, augment=AUGMENT), batch_size=2, shuffle=True, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_pseudomasks_are_joined_by_key_not_by_position(shards: ShardFolder, inputs: InputSpec, tmp_path: Path) -> None:
    masks = write_pseudomasks(shards, tmp_path / "masks", keys="bac")
    train = shards.split("train")
    dataset = ShardDataset(train, inputs, masks=masks)
    for index, key in enumerate(train.keys):
        assert dataset[index]["mask"].unique().tolist() == ["abc".index(key)]


def write_confidence(shards: ShardFolder, folder: Path) -> Split:
    """The truth as pseudo-masks, in which the confidence of a pixel is 100 for class 0 and 200 for the others."""
    train = shards.split("train")
    masks = {key: train.mask(index, "mask.png") for index, key in enumerate(train.keys)}
    sure = {key: np.where(mask == 0, np.uint8(100), np.uint8(200)) for key, mask in masks.items()}
    return write_masks(shards, folder, {key: {"png": masks[key], "confidence": sure[key]} for key in masks})


@pytest.mark.parametrize(("least", "ignored"), [(100 / 255, set()), (0.5, {0}), (0.9, {0, 1, 2})])
def test_pixels_of_too_little_confidence_are_ignored_wherever_the_geometry_takes_them(
    shards: ShardFolder, inputs: InputSpec, tmp_path: Path, least: float, ignored: set[int]
) -> None:
    train, masks = shards.split("train"), write_confidence(shards, tmp_path / "masks")
    plain = ShardDataset(train, inputs, masks=masks, augment=AUGMENT, seed=4)
    sure = ShardDataset(train, inputs, masks=masks, min_confidence=least, augment=AUGMENT, seed=4)
    for item in ((index, epoch) for index in range(3) for epoch in range(3)):
        mask = plain[item]["mask"]
        wanted = torch.where(torch.isin(mask, torch.tensor(sorted(ignored), dtype=torch.int64)), 255, mask)
        assert torch.equal(sure[item]["mask"], wanted)
        assert torch.equal(sure[item]["image"], plain[item]["image"])


def test_masks_without_confidence_are_refused_where_one_is_asked_for(
    shards: ShardFolder, inputs: InputSpec, tmp_path: Path
) -> None:
    masks = write_pseudomasks(shards, tmp_path / "masks", keys="abc")
    ShardDataset(shards.split("train"), inputs, masks=masks)
    with pytest.raises(ArtifactError, match=r"set extract_pseudomasks\.confidence: true"):
        ShardDataset(shards.split("train"), inputs, masks=masks, min_confidence=0.1)


def test_chosen_samples_are_those_of_the_whole_split(shards: ShardFolder, inputs: InputSpec) -> None:
    train = shards.split("train")
    whole = ShardDataset(train, inputs, masks=train, mask_member="mask.png", augment=AUGMENT, seed=1)
    some = ShardDataset(train, inputs, masks=train, mask_member="mask.png", samples=[2, 0], augment=AUGMENT, seed=1)
    assert len(some) == 2
    for number, index in enumerate((2, 0)):
        item, wanted = some[(number, 3)], whole[(index, 3)]
        assert item["index"] == index
        assert all(torch.equal(item[name], wanted[name]) for name in ("image", "labels", "size", "mask"))
    batches = list(make_loader(some, batch_size=1, shuffle=True, seed=0))
    assert sorted(int(batch["index"]) for batch in batches) == [0, 2]


def test_masks_of_other_data_are_refused(shards: ShardFolder, inputs: InputSpec, tmp_path: Path) -> None:
    train = shards.split("train")
    few = write_pseudomasks(shards, tmp_path / "few", keys="ab")
    with pytest.raises(ArtifactError, match="no sample 'c'; it was made from other data"):
        ShardDataset(train, inputs, masks=few)
    big = write_pseudomasks(shards, tmp_path / "big", keys="abc", grow=1)
    with pytest.raises(ArtifactError, match=r"mask of 'c' has size \(31, 21\).*its image \(30, 20\)"):
        ShardDataset(train, inputs, masks=big)[0]


def test_images_with_other_channels_are_refused(shards: ShardFolder) -> None:
    dataset = ShardDataset(shards.split("train"), InputSpec(image_size=(16, 16), channels=15, scale=1.0))
    with pytest.raises(ArtifactError, match="'c' has 3 channels, the model takes 15"):
        dataset[0]


def test_truth_is_never_opened_unless_asked_for(shards: ShardFolder, inputs: InputSpec, tmp_path: Path) -> None:
    train = shards.split("train")
    pseudo = write_pseudomasks(shards, tmp_path / "masks", keys="abc")
    path = shards.path / "train-00000.tar"
    data = bytearray(path.read_bytes())
    for index in range(3):
        truth = train.read(index, "mask.png")
        start = bytes(data).index(truth)
        data[start : start + len(truth)] = bytes(len(truth))
    path.write_bytes(data)
    for dataset in (
        ShardDataset(train, inputs, augment=AUGMENT),
        ShardDataset(train, inputs, augment=AUGMENT, masks=pseudo),
    ):
        assert len(list(make_loader(dataset, batch_size=1, shuffle=True, seed=0))) == 3
    with pytest.raises(ArtifactError, match=r"mask.png cannot be decoded"):
        ShardDataset(train, inputs, masks=train, mask_member="mask.png")[0]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    sampler = EpochSampler(50, seed=1, shuffle=True)
    first = list(sampler)
    assert sorted(index for index, _ in first) == list(range(50))
    sampler.set_epoch(7)
    later = list(sampler)
    assert {epoch for _, epoch in later} == {7}
    assert [index for index, _ in later] != [index for index, _ in first]
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(EpochSampler(50, seed=2, shuffle=True)) != first


@pytest.mark.parametrize(("n", "world"), [(10, 3), (12, 3), (12, 4), (1, 1)])
def test_processes_take_the_shares_that_torch_gives_them(n: int, world: int) -> None:
    for rank in range(world):
        torchs = DistributedSampler(range(n), num_replicas=world, rank=rank, shuffle=True)
        assert len(EpochSampler(n, seed=0, shuffle=True, rank=rank, world=world)) == len(torchs)
        if n % world == 0:
            ordered = DistributedSampler(range(n), num_replicas=world, rank=rank, shuffle=False)
            ours = EpochSampler(n, seed=0, shuffle=False, rank=rank, world=world)
            assert [index for index, _ in ours] == list(ordered)


@pytest.mark.parametrize(("n", "world"), [(10, 3), (9, 3), (2, 4), (1, 4)])
def test_processes_share_all_samples(n: int, world: int) -> None:
    shuffled = [EpochSampler(n, seed=0, shuffle=True, rank=rank, world=world) for rank in range(world)]
    shares = [[index for index, _ in sampler] for sampler in shuffled]
    assert {index for share in shares for index in share} == set(range(n))
    assert {len(share) for share in shares} == {len(shuffled[0])} == {-(-n // world)}
    ordered = [EpochSampler(n, seed=0, shuffle=False, rank=rank, world=world) for rank in range(world)]
    assert sorted(index for sampler in ordered for index, _ in sampler) == list(range(n))
    assert all(len(sampler) == len(list(sampler)) for sampler in ordered)


def test_only_shuffled_loaders_drop_an_incomplete_batch(shards: ShardFolder, inputs: InputSpec) -> None:
    dataset = ShardDataset(shards.split("train"), inputs)
    assert len(list(make_loader(dataset, batch_size=2, shuffle=True, seed=0))) == 1
    assert len(list(make_loader(dataset, batch_size=2, shuffle=False, seed=0))) == 2
    assert len(list(make_loader(dataset, batch_size=8, shuffle=True, seed=0))) == 1
