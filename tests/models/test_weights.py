"""Pretrained weights: a file of another model never passes for a start."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save, save_file

from ctm.errors import ModelError
from ctm.models.weights import check_weights


@pytest.fixture(scope="module")
def vit() -> torch.nn.Module:
    return timm.create_model("test_vit", num_classes=0)


def test_a_models_own_weights_pass_with_and_without_a_head(vit, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(vit.state_dict() | {"head.weight": torch.zeros(2, 2)}, path)
    check_weights(str(path), vit, parameter="model.pretrained")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            save({"conv.weight": torch.zeros(3)}),
            r"model\.pretrained: .* holds 0 of the model's \d+ weights.*conv_weight",
        ),
        (b"\x00" * 20, "damaged or no safetensors file"),
    ],
    ids=["of another model", "damaged"],
)
def test_other_files_are_refused_with_what_they_hold(vit, tmp_path, content, message):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        check_weights(str(path), vit, parameter="model.pretrained")
