"""Training of the segmenter: pseudo-masks alone teach it, and the truth is never opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ctm.data.classes import ClassTable
from ctm.data.sample import encode_mask
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import ShardFolder
from ctm.errors import ArtifactError
from ctm.models.segmenter import save_segmenter
from ctm.params import Params
from ctm.runtime.context import Context
from ctm.training.loop import Progress
from ctm.training.segmenter import SegmenterTask, train_segmenter


def write_masks(shards: ShardFolder, folder: Path, *, splits: tuple[str, ...] = ("train", "val")) -> ShardFolder:
    """Pseudo-masks that have nothing to do with the truth; a tenth of the pixels is undecided."""
    rng = np.random.default_rng(0)
    entries = {}
    for split in map(shards.split, splits):
        with ShardWriter(folder, split.name, classes=shards.classes) as writer:
            for key, (height, width) in zip(split.keys, split.sizes.tolist(), strict=True):
                mask = rng.integers(8, size=(height // 8, width // 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                mask[rng.random(mask.shape) < 0.1] = 255
                writer.add(key, {"png": encode_mask(mask)}, labels=(0,), height=height, width=width)
        entries[split.name] = writer.entry
    write_index(folder, ShardIndex(kind="masks", classes=shards.classes.names, background=None, splits=entries))
    return ShardFolder.open(folder)


@pytest.fixture
def masks(tiny_shards: ShardFolder, tmp_path: Path) -> ShardFolder:
    return write_masks(tiny_shards, tmp_path / "masks")


def train(params: Params, shards: ShardFolder, masks: ShardFolder, folder: Path, **settings: Any) -> tuple[bytes, Any]:
    """Bytes of the written weights, and the history."""
    seed = settings.pop("seed", 0)
    model, spec, inputs, history = train_segmenter(
        shards,
        masks,
        image_size=(32, 32),
        training=params.train_segmenter.model_copy(update=settings),
        seed=seed,
        precision="fp32",
        context=Context(device="cpu", workers=0, checkpoints=folder / "checkpoints", resume=True),
    )
    assert not model.training
    save_segmenter(folder / "model", model, spec, classes=shards.classes, inputs=inputs)
    return (folder / "model" / "model.safetensors").read_bytes(), history


@pytest.mark.parametrize("truth", [None, b"no picture at all"], ids=["missing", "garbled"])
def test_the_truth_is_never_opened(
    tiny_params: Params,
    tiny_shards: ShardFolder,
    masks: ShardFolder,
    rewrite: Callable[..., ShardFolder],
    tmp_path: Path,
    truth: bytes | None,
):
    blind = rewrite(tiny_shards, {"mask.png": truth})
    with pytest.raises(ArtifactError):
        blind.split("train").mask(0, "mask.png")
    expected = train(tiny_params, tiny_shards, masks, tmp_path / "with")
    assert train(tiny_params, blind, masks, tmp_path / "without") == expected


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(
    tiny_params: Params, tiny_shards: ShardFolder, masks: ShardFolder, tmp_path: Path
):
    first = train(tiny_params, tiny_shards, masks, tmp_path / "a", seed=1)
    torch.rand(3)
    assert train(tiny_params, tiny_shards, masks, tmp_path / "b", seed=1) == first
    assert train(tiny_params, tiny_shards, masks, tmp_path / "c", seed=2)[0] != first[0]


def test_the_history_measures_agreement_with_the_pseudomasks(
    tiny_params: Params, tiny_shards: ShardFolder, masks: ShardFolder, tmp_path: Path
):
    _, history = train(tiny_params, tiny_shards, masks, tmp_path)
    assert [list(row) for row in history] == [["epoch", "train_loss", "val_pseudo_miou", "lr"]] * 2


def test_without_pseudomasks_of_val_it_trains_and_scores_nothing(
    tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path
):
    masks = write_masks(tiny_shards, tmp_path / "masks", splits=("train",))
    _, history = train(tiny_params, tiny_shards, masks, tmp_path, keep="best")
    assert [list(row) for row in history] == [["epoch", "train_loss", "lr"]] * 2


def test_without_pseudomasks_of_train_it_says_so(tiny_params: Params, tiny_shards: ShardFolder, tmp_path: Path):
    masks = write_masks(tiny_shards, tmp_path / "masks", splits=("val",))
    with pytest.raises(ArtifactError, match="train"):
        train(tiny_params, tiny_shards, masks, tmp_path)


def test_pseudomasks_of_other_images_are_refused(
    tiny_params: Params, tiny_shards: ShardFolder, masks: ShardFolder, tmp_path: Path
):
    entries = {"train": masks.index.splits["val"]}
    write_index(masks.path, masks.index.model_copy(update={"splits": entries}))
    with pytest.raises(ArtifactError, match=r"no sample.*made from other data"):
        train(tiny_params, tiny_shards, ShardFolder.open(masks.path), tmp_path)


def test_encoder_and_decoder_have_rates_of_their_own(
    tiny_params: Params, tiny_shards: ShardFolder, masks: ShardFolder, tmp_path: Path
):
    def trained(**settings: Any) -> dict[str, torch.Tensor]:
        model, *_ = train_segmenter(
            tiny_shards,
            masks,
            image_size=(32, 32),
            training=tiny_params.train_segmenter.model_copy(update={"epochs": 2, "weight_decay": 0.0, **settings}),
            seed=0,
            precision="fp32",
            context=Context(device="cpu", workers=0, checkpoints=tmp_path / str(settings), resume=False),
        )
        return dict(model.named_parameters())

    still = trained(lr=1e-12, decoder_lr=1e-12)

    def moved(**settings: float) -> set[str]:
        return {
            name.split(".")[0] for name, value in trained(**settings).items() if not torch.allclose(value, still[name])
        }

    assert moved(lr=1e-3, decoder_lr=1e-12) == {"encoder"}
    assert moved(lr=1e-12, decoder_lr=1e-3) == {"decoder", "segmentation_head"}
    assert moved(lr=1e-3, decoder_lr=None) == {"encoder", "decoder", "segmentation_head"}


class Fixed(nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1, -1, -1)


TASK = SegmenterTask(ClassTable(("a", "b", "c")))


def test_the_loss_is_the_mean_over_decided_pixels():
    model = Fixed(torch.zeros(3, 2, 2))
    mask = torch.tensor([[[0, 255], [255, 2]]])
    loss = TASK.losses(model, {"image": torch.zeros(1, 1, 2, 2), "mask": mask}, Progress(0, 1))["loss"]
    assert float(loss.detach()) == pytest.approx(np.log(3))
    loss.backward()
    assert model.logits.grad is not None
    assert torch.equal(model.logits.grad.abs().sum(dim=0) > 0, mask[0] != 255)


def test_a_batch_without_any_decision_teaches_nothing():
    model = Fixed(torch.randn(3, 2, 2))
    batch = {"image": torch.zeros(2, 1, 2, 2), "mask": torch.full((2, 2, 2), 255)}
    loss = TASK.losses(model, batch, Progress(0, 1))["loss"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert model.logits.grad is not None
    assert not model.logits.grad.any()


def test_validation_is_the_mean_iou_with_the_pseudomasks():
    logits = torch.zeros(3, 1, 4)
    logits[0, 0, :2] = logits[1, 0, 2:] = 1
    mask = torch.tensor([[[0, 1, 1, 255]]])
    assert TASK.validate(Fixed(logits), [{"image": torch.zeros(1, 1, 1, 4), "mask": mask}]) == {
        "pseudo_miou": pytest.approx((1 / 2 + 1 / 2) / 2)
    }
