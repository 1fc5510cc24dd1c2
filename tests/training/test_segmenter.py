"""Training of the segmenter: pseudo-masks alone teach it, and the truth is never opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ctm.data.classes import ClassTable
from ctm.data.config import AugmentConfig
from ctm.data.sample import encode_mask
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import ShardFolder, Split
from ctm.errors import ArtifactError
from ctm.training.config import TrainSegmenterConfig
from ctm.training.loop import Progress
from ctm.training.segmenter import SegmenterTask

Members = dict[str, bytes | None]
Train = Callable[..., tuple[bytes, Any]]


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


def test_in_half_precision_convolutions_have_their_channels_last(train):
    seen: dict[str, set[bool]] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if module.training and isinstance(module, nn.Conv2d) and min(output.shape[1:]) > 1:
            seen[precision].add(output.is_contiguous(memory_format=torch.channels_last))

    hook = register_module_forward_hook(look)
    try:
        for precision in ("fp32", "bf16"):
            seen[precision] = set()
            written = train(precision, precision=precision)
            assert written
    finally:
        hook.remove()
    assert True not in seen["fp32"]
    assert seen["bf16"] == {True}


@pytest.mark.parametrize("settings", [{}, {"self_training": 1, "loss": "sce", "epochs": 1}], ids=["once", "rounds"])
@pytest.mark.parametrize("truth", [None, b"no picture at all"], ids=["missing", "garbled"])
def test_the_truth_is_never_opened(train, rewrite, tiny_shards, settings, truth):
    blind = rewrite(tiny_shards, {"mask.png": truth})
    with pytest.raises(ArtifactError):
        blind.split("train").mask(0, "mask.png")
    assert train("without", shards=blind, **settings) == train("with", **settings)


def test_supervision_by_the_truth_is_the_same_training_with_other_masks(train, rewrite, tiny_shards, masks):
    truth = tiny_shards.split("train")

    def true_in_train(split: Split, index: int, members: Members) -> Members:
        return {"png": truth.read(index, "mask.png")} if split.name == "train" else members

    copied = rewrite(masks, true_in_train)
    found = train("truth", epochs=1, supervision="truth")
    assert found == train("copied", masks=copied, epochs=1)
    assert found != train("pseudo", epochs=1)


def test_images_without_truth_are_left_out_of_it_and_the_truth_of_val_is_not_opened(train, rewrite, tiny_shards):
    settings = {"supervision": "truth", "augment": AugmentConfig(flip="none"), "batch_size": 4}

    def eight_have_a_truth(others: bool) -> Callable[..., Members | None]:
        def change(split: Split, index: int, members: Members) -> Members | None:
            if split.name == "val":
                return members | {"mask.png": b"no picture at all"}
            without = members | {"mask.png": None} if others else None
            return members if index in range(8, 16) else without

        return change

    among = rewrite(tiny_shards, eight_have_a_truth(others=True), name="among")
    alone = rewrite(tiny_shards, eight_have_a_truth(others=False), name="alone")
    expected = train("a", shards=alone, **settings)
    assert train("b", shards=among, **settings) == expected


def test_without_any_truth_the_upper_bound_is_refused(train, tiny_shards, rewrite):
    blind = rewrite(tiny_shards, {"mask.png": None})
    with pytest.raises(ArtifactError, match=r"no train image has a true mask.*or set supervision: pseudomasks"):
        train(shards=blind, supervision="truth")


def test_pixels_of_too_little_confidence_are_not_learned(train, rewrite, masks):
    """Where half of each mask is unsure, it is as if that half were undecided."""

    def half_unsure(split: Split, index: int, members: Members) -> Members:
        mask = split.mask(index, "png")
        confidence = np.full_like(mask, 200)
        confidence[:, : mask.shape[1] // 2] = 127
        return members | {"confidence": encode_mask(confidence)}

    def half_undecided(split: Split, index: int, members: Members) -> Members:
        mask = split.mask(index, "png")
        mask[:, : mask.shape[1] // 2] = 255
        return half_unsure(split, index, members) | ({"png": encode_mask(mask)} if split.name == "train" else {})

    unsure, undecided = (rewrite(masks, half, name=half.__name__) for half in (half_unsure, half_undecided))
    expected = train("a", masks=undecided, epochs=1)
    assert train("b", masks=unsure, epochs=1, min_confidence=0.5) == expected
    assert train("c", masks=unsure, epochs=1, min_confidence=0.49) != expected


def test_a_confidence_that_the_pseudomasks_lack_is_told_with_the_parameter_that_gives_it(train):
    with pytest.raises(ArtifactError, match=r"min_confidence 0\.5 needs: set extract_pseudomasks\.confidence: true"):
        train(min_confidence=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"self_training": -1}, "greater than or equal to 0"),
        ({"min_confidence": 1.5}, "less than or equal to 1"),
        ({"loss": "mse"}, "'ce', 'sce' or 'bootstrap'"),
        ({"freeze_encoder": True}, "pretrained is false: give it weights"),
        ({"supervision": "truth", "self_training": 1}, r"without self_training \(1\): set that to 0"),
        ({"supervision": "truth", "min_confidence": 0.5}, r"min_confidence \(0\.5\) has no say: set it to 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainSegmenterConfig(epochs=2, **settings)


def test_a_frozen_encoder_is_written_as_it_was_read(train, tmp_path):
    torch.manual_seed(3)
    sizes = {"depth": 1, "embed_dim": 16, "num_heads": 2, "patch_size": 8}
    weights = timm.create_model("test_vit", img_size=32, in_chans=15, num_classes=0, **sizes).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    settings = {"arch": "vit", "encoder": "test_vit", "options": {**sizes, "drop_path_rate": 0.5}}
    train(**settings, pretrained=str(tmp_path / "weights.safetensors"), freeze_encoder=True, self_training=1)
    written = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(written[f"encoder.{name}"], value) for name, value in weights.items())


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(train):
    first = train("a", seed=1)
    torch.rand(3)
    assert train("b", seed=1) == first
    assert train("c", seed=2)[0] != first[0]


def test_the_history_measures_agreement_with_the_pseudomasks(train):
    _, history = train()
    assert [list(row) for row in history] == [["epoch", "train_loss", "val_pseudo_miou", "lr"]] * 2


def test_without_pseudomasks_of_val_it_trains_and_scores_nothing(train, tiny_shards, tmp_path):
    train_alone = write_masks(tiny_shards, tmp_path / "masks", splits=("train",))
    _, history = train(masks=train_alone, keep="best")
    assert [list(row) for row in history] == [["epoch", "train_loss", "lr"]] * 2


def test_without_pseudomasks_of_train_it_says_so(train, tiny_shards, tmp_path):
    val_alone = write_masks(tiny_shards, tmp_path / "masks", splits=("val",))
    with pytest.raises(ArtifactError, match="train"):
        train(masks=val_alone)


def test_pseudomasks_of_other_images_are_refused(train, masks):
    entries = {"train": masks.index.splits["val"]}
    write_index(masks.path, masks.index.model_copy(update={"splits": entries}))
    with pytest.raises(ArtifactError, match=r"no sample.*made from other data"):
        train(masks=ShardFolder.open(masks.path))


def test_decay_alone_leaves_tokens_positions_norms_and_biases_of_the_encoder(fit):
    def trained(decay: float) -> dict[str, torch.Tensor]:
        settings = {"arch": "vit", "encoder": "test_vit", "options": {}, "lr": 1e-6, "weight_decay": decay}
        model, *_ = fit(str(decay), **settings)
        return dict(model.named_parameters())

    without, strong = trained(0.0), trained(1e4)
    shrunk = {name for name, value in strong.items() if value.norm() < 0.995 * without[name].norm()}
    assert shrunk == {name for name in without if name.endswith(".weight") and without[name].ndim > 1}
    assert {"encoder.cls_token", "encoder.pos_embed"} <= without.keys() - shrunk


def test_encoder_and_decoder_have_rates_of_their_own(fit):
    def trained(**settings: Any) -> dict[str, torch.Tensor]:
        model, *_ = fit(str(settings), **{"epochs": 2, "weight_decay": 0.0, **settings})
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


def test_validation_is_the_mean_iou_with_the_pseudomasks():
    logits = torch.zeros(3, 1, 4)
    logits[0, 0, :2] = logits[1, 0, 2:] = 1
    mask = torch.tensor([[[0, 1, 1, 255]]])
    assert TASK.validate(Fixed(logits), [{"image": torch.zeros(1, 1, 1, 4), "mask": mask}]) == {
        "pseudo_miou": pytest.approx((1 / 2 + 1 / 2) / 2)
    }
