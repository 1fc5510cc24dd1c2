"""Pretrained weights: a file of another model never passes for a start."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ctm.errors import ModelError
from ctm.models.weights import check_weights


@pytest.fixture(scope="module")
def vit() -> torch.nn.Module:
    return timm.create_model("test_vit", num_classes=0)


def test_a_models_own_weights_pass_with_and_without_a_head(vit: torch.nn.Module, tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file(vit.state_dict() | {"head.weight": torch.zeros(2, 2)}, path)
    check_weights(str(path), vit, parameter="model.pretrained")


def test_weights_of_another_model_are_refused_with_what_the_file_has(vit: torch.nn.Module, tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"model\.pretrained: .* holds 0 of the model's \d+ weights.*conv_weight"):
        check_weights(str(path), vit, parameter="model.pretrained")


def test_a_damaged_file_is_refused(vit: torch.nn.Module, tmp_path: Path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"\x00" * 20)
    with pytest.raises(ModelError, match="damaged or no safetensors file"):
        check_weights(str(path), vit, parameter="model.pretrained")
