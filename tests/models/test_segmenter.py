"""The segmenter: any architecture by name, clear refusals, and a file that brings everything back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.errors import ArtifactError, ModelError
from ctm.models.segmenter import (
    SegmenterSpec,
    build_segmenter,
    load_segmenter,
    read_supervision,
    save_segmenter,
    set_grad_checkpointing,
)
from tests.models.conftest import DAMAGES, edit

CLASSES = ClassTable(("background", "cat", "dog"), background=0)
TINY = SegmenterSpec("unet", "resnet18", {"encoder_depth": 3, "decoder_channels": [8, 8, 8]})


def inputs(size: tuple[int, int] = (32, 32), channels: int = 3) -> InputSpec:
    return InputSpec(size, channels, 1 / 255)


def build(
    arch: str = "unet", encoder: str = "resnet18", *, size: tuple[int, int] = (32, 32), channels: int = 3, **more: Any
) -> nn.Module:
    pretrained = more.pop("pretrained", False)
    options = more or (dict(TINY.options) if arch == "unet" else {})
    return build_segmenter(
        SegmenterSpec(arch, encoder, options), inputs(size, channels), num_classes=3, pretrained=pretrained
    )


@pytest.mark.parametrize(
    ("arch", "options", "channels"),
    [
        ("unet", TINY.options, 1),
        ("unet", TINY.options, 15),
        ("fpn", {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}, 3),
        ("linknet", {}, 3),
    ],
)
def test_architectures_are_built_by_name_for_any_channels_and_a_size_that_is_no_square(arch, options, channels):
    model = build(arch, size=(64, 96), channels=channels, **options)
    assert model(torch.zeros(2, channels, 64, 96)).shape == (2, 3, 64, 96)
    assert model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "unett"}, r"train_segmenter\.arch: no 'unett'\. Did you mean unet\? Valid: .*deeplabv3plus.*unet"),
        ({"encoder": "resnet1"}, "cannot build unet with encoder resnet1.*resnet18"),
        ({"encoder": "tu-no_such_model"}, "cannot build unet with encoder tu-no_such_model"),
        ({"decoder_chanels": [8]}, r"options: unet with resnet18 takes no 'decoder_chanels'\. .*decoder_channels"),
        ({"in_channels": 3}, "options: unet with resnet18 takes no 'in_channels'"),
        ({"encoder": "tu-test_resnet", "colour": "red"}, "cannot build unet with encoder tu-test_resnet.*colour"),
        ({"pretrained": "w.safetensors"}, "a weights file can be given for tu- encoders only"),
        (
            {"encoder": "tu-test_resnet", "pretrained": "w.safetensors"},
            r"train_segmenter\.pretrained: 'w\.safetensors' does not exist",
        ),
    ],
)
def test_what_cannot_be_built_is_told_with_what_can(arguments, message):
    with pytest.raises(ModelError, match=message):
        build(**arguments)


def test_a_size_that_does_not_work_is_refused_with_one_that_does():
    with pytest.raises(
        ModelError, match=r"cannot take images of 30 x 50 pixels.*Set train_segmenter\.image_size"
    ) as error:
        build("fpn", size=(30, 50))
    advice = str(error.value).rsplit("to ", 1)[1].rstrip(".").split(" x ")
    size = (int(advice[0]), int(advice[1]))
    build("fpn", size=size)


def test_trying_the_size_leaves_the_statistics_alone():
    model = build()
    assert all(int(value) == 0 for name, value in model.state_dict().items() if name.endswith("num_batches_tracked"))


def test_a_local_file_starts_an_encoder_of_timm(tmp_path):
    torch.manual_seed(5)
    weights = timm.create_model("test_resnet").state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    model = build(encoder="tu-test_resnet", pretrained=str(tmp_path / "weights.safetensors"), size=(64, 64))
    own = {name.removeprefix("encoder.model."): v for name, v in model.state_dict().items() if ".model." in name}
    shared = [name for name in own if name in weights and weights[name].ndim == 4]
    assert len(shared) > 5
    assert all(torch.equal(own[name], weights[name]) for name in shared)


def save(folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model = build(size=(32, 48)).eval()
    save_segmenter(folder, model, TINY, classes=CLASSES, inputs=inputs((32, 48)))
    return model


def test_a_saved_segmenter_comes_back_with_its_values_classes_and_inputs(tmp_path):
    model = save(tmp_path / "new" / "folder")
    loaded, classes, found = load_segmenter(tmp_path / "new" / "folder")
    images = torch.randn(2, 3, 32, 48)
    assert torch.equal(loaded(images), model(images))
    assert not loaded.training
    assert (classes, found) == (CLASSES, inputs((32, 48)))


DAMAGED = DAMAGES | {
    "another class count": lambda folder: edit(folder, classes={"names": ["a"], "background": None}),
    "unknown architecture": lambda folder: edit(folder, spec={"arch": "x", "encoder": "resnet18", "options": {}}),
    "unknown field": lambda folder: edit(folder, spec={"colour": "red"}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_an_artifact_error_that_names_the_folder(tmp_path, damage):
    save(tmp_path)
    DAMAGED[damage](tmp_path)
    with pytest.raises(ArtifactError) as error:
        load_segmenter(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_an_older_segmenter_has_learned_from_pseudomasks(tmp_path):
    save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    del description["supervision"]
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert read_supervision(tmp_path) == "pseudomasks"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((DAMAGES[name], "no readable model") for name in ("no description", "no json", "no object", "no text")),
        (lambda folder: edit(folder, supervision="guesses"), "learned from 'guesses'"),
    ],
)
def test_a_supervision_that_cannot_be_read_is_an_artifact_error(tmp_path, damage, message):
    save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        read_supervision(tmp_path)


VIT = {"patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 3, "decoder_channels": 8}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model.zero_grad()
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("arch", "encoder", "options"),
    [
        ("vit", "test_vit", VIT | {"drop_path_rate": 0.5}),
        ("unet", "tu-test_resnet", {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}),
        ("dpt", "tu-vit_tiny_patch16_224", {}),
    ],
)
def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(arch, encoder, options):
    model = build(arch, encoder, size=(64, 64), **options)
    kept: list[int] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[-1] += tensor.numel()
        return tensor

    found = []
    for _ in range(2):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(torch.randn(2, 3, 64, 64))
        found.append(gradients(model))
        set_grad_checkpointing(model)
    assert kept[1] < 0.95 * kept[0]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_an_encoder_without_gradient_checkpointing_is_refused_with_those_that_have_it():
    with pytest.raises(ModelError, match=r"encoder ResNetEncoder has no gradient checkpointing.*arch vit.*prefix tu-"):
        set_grad_checkpointing(build())
