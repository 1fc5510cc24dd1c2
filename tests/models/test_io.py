"""The classifier on disk: the same values come back, and damage is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.errors import ArtifactError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.io import load_classifier, save_classifier
from ctm.models.pruning import prune_heads
from tests.models.conftest import DAMAGES, edit

CLASSES = ClassTable(names=("background", "cat", "dog", "bird"), background=0)
INPUTS = InputSpec(image_size=(8, 12), channels=2, scale=1 / 255, mean=(0.5, 0.4), std=(0.2, 0.3))
IMAGES = torch.randn(2, 2, 8, 12)


def make_model(**settings: object) -> ClassTokenViT:
    sizes = {"image_size": (8, 12), "patch_size": 4, "depth": 3, "embed_dim": 24, "num_heads": 3}
    config = ModelConfig(backbone="vit_tiny_patch16_224", **sizes, **settings)
    gates = GatesConfig(initial=1.5, hard=False)
    model = ClassTokenViT(config, gates, num_classes=3, in_channels=2).eval()
    for block, heads in enumerate([[0], [0, 1, 2], []]):
        model.gates[block].log_alpha.data[heads] = -1.0
    return model


def save(folder: Path, model: ClassTokenViT) -> Path:
    save_classifier(folder, model, classes=CLASSES, inputs=INPUTS)
    return folder


@pytest.mark.parametrize("settings", [{}, {"head": "diagonal"}, {"patch_head": True}, {"register_token": False}])
@pytest.mark.parametrize("pruned", [False, True])
def test_a_saved_classifier_comes_back_with_its_values_classes_and_inputs(tmp_path, pruned, settings):
    model = prune_heads(make_model(**settings)) if pruned else make_model(**settings)
    loaded, classes, inputs = load_classifier(save(tmp_path / "new" / "folder", model))
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert torch.equal(loaded.attention_maps(IMAGES)[0], model.attention_maps(IMAGES)[0])
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert loaded.kept_heads == model.kept_heads
    assert len(loaded.gates) == len(model.gates)
    assert loaded.gates_config == model.gates_config
    assert not loaded.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    assert (classes, inputs) == (CLASSES, INPUTS)


def test_a_model_written_before_there_were_these_parameters_loads_as_it_was(tmp_path):
    model = make_model()
    written = json.loads((save(tmp_path, model) / "model.json").read_text())["model"]
    del written["patch_head"], written["register_token"], written["head"]
    edit(tmp_path, model=written)
    loaded, _, _ = load_classifier(tmp_path)
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert loaded.patch_head is None
    assert loaded.register_token is not None


def test_a_loaded_gated_model_can_be_pruned_and_a_pruned_one_saved_again(tmp_path):
    loaded, _, _ = load_classifier(save(tmp_path / "gated", make_model()))
    again, _, _ = load_classifier(save(tmp_path / "pruned", prune_heads(loaded)))
    assert torch.allclose(again(IMAGES), loaded(IMAGES), atol=1e-5)


def test_the_pretrained_file_is_not_needed_to_load(tmp_path):
    model = make_model()
    model.config = model.config.model_copy(update={"pretrained": "gone.safetensors"})
    assert json.loads((save(tmp_path, model) / "model.json").read_text())["model"]["pretrained"] is False
    load_classifier(tmp_path)


DAMAGED = DAMAGES | {
    "another head count": lambda folder: edit(folder, kept_heads=[[0], [1], [2]]),
    "another class count": lambda folder: edit(folder, num_classes=4),
    "unknown parameter": lambda folder: edit(folder, model={"colour": "red"}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_an_artifact_error_that_names_the_folder(tmp_path, damage):
    save(tmp_path, make_model())
    DAMAGED[damage](tmp_path)
    with pytest.raises(ArtifactError) as error:
        load_classifier(tmp_path)
    assert str(tmp_path) in str(error.value)
