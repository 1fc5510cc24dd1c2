"""Explanations: every probability in a table, and a picture for each class that is predicted."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ctm.data.classes import ClassTable
from ctm.data.display import display_rgb
from ctm.data.inputs import InputSpec
from ctm.data.transforms import image_to_input
from ctm.errors import ArtifactError, DataError
from ctm.evaluation.figures import heat_overlay
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.predict.explain import explain_images
from ctm.predict.images import find_images
from ctm.pseudomasks.config import MapConfig
from ctm.pseudomasks.maps import class_maps
from tests.predict.conftest import smooth

CLASSES = ClassTable(("nothing", "a/b", "a b", "cat"), background=0)
INPUTS = InputSpec((32, 32), 3, 1 / 255, values="bytes", stored_size=(32, 32))
CPU = torch.device("cpu")


@pytest.fixture
def model() -> ClassTokenViT:
    torch.manual_seed(0)
    config = ModelConfig(backbone="test_vit", image_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3)
    made = ClassTokenViT(config, GatesConfig(), num_classes=3, in_channels=3).eval()
    with torch.no_grad():
        made.head.bias.copy_(torch.tensor([3.0, -3.0, 3.0]))  # a/b and cat are predicted everywhere
    return made


def photographs(folder: Path) -> Path:
    folder.mkdir()
    for number, name in enumerate(["one", "two", "three"]):
        pixels = smooth(3, (40, 50 + number), seed=number).transpose(1, 2, 0)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def explained(model: ClassTokenViT, out: Path, place: Path, *, batch_size: int = 2) -> int:
    found = find_images([place], INPUTS, explained=True)
    return explain_images(found, model, out, classes=CLASSES, inputs=INPUTS, device=CPU, batch_size=batch_size)


def test_every_probability_is_told_and_every_predicted_class_is_shown(tmp_path, model):
    folder = photographs(tmp_path / "images")
    assert explained(model, tmp_path / "out", folder) == 6
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    pictures = [f"{name}/{file}" for name in ("one", "three", "two") for file in ("a_b_1.png", "cat.png")]
    assert files == sorted([*pictures, "predictions.csv"])
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["class"]) for row in rows] == [
        (name, label) for name in ("one", "three", "two") for label in ("a/b", "a b", "cat")
    ]
    for row in rows:
        pixels = np.array(Image.open(folder / f"{row['image']}.png")).transpose(2, 0, 1)
        logits = model(image_to_input(pixels, INPUTS)[None])[0]
        assert float(row["probability"]) == pytest.approx(
            float(logits.sigmoid()[("a/b", "a b", "cat").index(row["class"])]), abs=1e-4
        )


def test_the_picture_is_the_report_s_of_the_default_map_at_the_image_s_size(tmp_path, model):
    folder = photographs(tmp_path / "images")
    explained(model, tmp_path / "out", folder)
    pixels = np.array(Image.open(folder / "two.png")).transpose(2, 0, 1)
    maps = class_maps(model, image_to_input(pixels, INPUTS)[None], None, MapConfig()).maps[0]
    expected = heat_overlay(display_rgb(pixels), maps[2].numpy(), side=51)
    with Image.open(tmp_path / "out" / "two" / "cat.png") as picture:
        assert picture.size == (51, 40)
        difference = np.abs(np.asarray(picture).astype(int) - expected)
    assert np.percentile(difference, 99) <= 1  # sums of another batch are rounded otherwise


def test_pixels_without_value_explain_nothing(tmp_path, model, raster):
    pixels = np.maximum(smooth(3, (32, 32)), 1)
    pixels[:, :16] = 0
    explained(model, tmp_path / "out", raster("scene.tif", pixels, nodata=0))
    picture = np.asarray(Image.open(tmp_path / "out" / "scene" / "cat.png"))
    assert (picture[:16] == 0).all()  # black, as the image is there
    assert picture[16:].max() > 150  # what speaks for the class is brightest among what is seen


def test_an_image_without_a_predicted_class_has_rows_and_no_picture(tmp_path, model):
    with torch.no_grad():
        model.head.bias.fill_(-5)
    assert explained(model, tmp_path / "out", photographs(tmp_path / "images")) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 10


def test_what_cannot_be_read_is_named_and_the_rest_explained(tmp_path, model):
    folder = photographs(tmp_path / "images")
    data = (folder / "two.png").read_bytes()
    (folder / "two.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"two\.png is no readable image"):
        explained(model, tmp_path / "out", folder)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one", "predictions.csv", "three"]


def test_a_folder_with_files_is_left_alone(tmp_path, model):
    folder = photographs(tmp_path / "images")
    with pytest.raises(ArtifactError, match="is no empty folder"):
        explained(model, folder, folder)
