"""ONNX files: they compute what torch does from stored pixel values, say what these mean, or are not kept."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.transforms import image_to_input
from ctm.errors import ArtifactError, ModelError
from ctm.models.onnx_export import TOLERANCE, StoredValues, _examples, check_onnx, export_onnx
from ctm.models.segmenter import SegmenterSpec, build_segmenter, load_segmenter, save_segmenter

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

CLASSES = ClassTable(("background", "cât", "dog"), background=0)
INPUTS = InputSpec((32, 48), 3, 1 / 255, (0.4, 0.5, 0.3), (0.2, 0.2, 0.3), values="bytes", stored_size=(24, 30))
SPECS = {
    "unet": SegmenterSpec("unet", "resnet18", {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}),
    "vit": SegmenterSpec(
        "vit", "vit_small_patch16_224", {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
    ),
}


def saved(folder: Path, arch: str = "unet", *, inputs: InputSpec = INPUTS, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = build_segmenter(SPECS[arch], inputs, num_classes=3)
    save_segmenter(folder, model, SPECS[arch], classes=CLASSES, inputs=inputs)
    return folder


@pytest.fixture(scope="module", params=SPECS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A segmenter and the file made of it."""
    root = tmp_path_factory.mktemp("onnx")
    folder, file = saved(root / "model", request.param), root / "deep" / "model.onnx"
    assert 0 <= export_onnx(folder, file) <= TOLERANCE
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    return folder, file


def test_logits_are_those_of_torch_for_any_batch(exported):
    folder, file = exported
    images = np.random.default_rng(1).integers(0, 256, size=(5, 3, 32, 48), dtype=np.uint8)
    network, _, inputs = load_segmenter(folder)
    with torch.inference_mode():
        expected = network(torch.stack([image_to_input(image, inputs) for image in images])).numpy()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        [found] = session.run(None, {"images": images[:batch].astype(np.float32)})
        np.testing.assert_allclose(found, expected[:batch], atol=1e-4)


def test_the_file_says_what_goes_in_and_what_comes_out(exported):
    session = onnxruntime.InferenceSession(exported[1], providers=["CPUExecutionProvider"])
    [given], [made] = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(float)", ["batch", 3, 32, 48])
    assert (made.name, made.shape[1:]) == ("logits", [3, 32, 48])
    about = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert about == {
        "classes": ["background", "cât", "dog"],
        "background": 0,
        "image_size": [32, 48],
        "channels": 3,
        "values": "bytes",
    }


def test_images_that_are_not_standardised_are_only_scaled(tmp_path):
    inputs = InputSpec((32, 32), 4, 1e-4, values="numbers")
    assert export_onnx(saved(tmp_path / "model", inputs=inputs), tmp_path / "model.onnx") <= TOLERANCE


def test_images_are_compared_within_the_range_of_the_training_images(tmp_path):
    inputs = InputSpec((32, 32), 2, 1.0, (3000.0, 50.0), (800.0, 7.0), values="numbers")
    folder, file = saved(tmp_path / "model", inputs=inputs), tmp_path / "model.onnx"
    export_onnx(folder, file)
    other, _, _ = load_segmenter(folder)
    with torch.no_grad():
        next(other.parameters())[:, 1] = 0  # blind to the second band
    with pytest.raises(ModelError) as raised:
        check_onnx(file, StoredValues(other, inputs).eval(), inputs)
    assert float(str(raised.value).split(" by ")[1].split()[0]) > 0.05  # as much as images that vary show
    for images in _examples(inputs):
        standardised = (images - np.reshape(inputs.mean, (2, 1, 1))) / np.reshape(inputs.std, (2, 1, 1))
        assert np.abs(standardised).max() <= 2.001
        assert np.abs(standardised).max(axis=(0, 2, 3)).min() > 0.99


def test_a_file_that_computes_something_else_is_found_out(exported, tmp_path):
    file = tmp_path / "model.onnx"
    shutil.copyfile(exported[1], file)
    other, _, _ = load_segmenter(saved(tmp_path / "other", seed=1))
    with pytest.raises(ModelError, match=r"differs from torch by .* more than 0\.0001; it is not kept"):
        check_onnx(file, StoredValues(other, INPUTS).eval(), INPUTS)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="does not run in onnxruntime"):
        check_onnx(file, StoredValues(other, INPUTS).eval(), INPUTS)


def test_an_export_that_is_wrong_is_not_kept_and_replaces_nothing(tmp_path):
    folder, file = tmp_path / "model", tmp_path / "out" / "model.onnx"
    model = build_segmenter(SPECS["unet"], INPUTS, num_classes=3)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)  # nothing equals what it computes
    save_segmenter(folder, model, SPECS["unet"], classes=CLASSES, inputs=INPUTS)
    file.parent.mkdir()
    file.write_text("an older one")
    with pytest.raises(ModelError, match="it is not kept"):
        export_onnx(folder, file)
    assert [path.read_text() for path in file.parent.iterdir()] == ["an older one"]


def test_a_folder_is_never_replaced(tmp_path):
    folder = saved(tmp_path / "model")
    with pytest.raises(ArtifactError, match="is a folder; name a file, such as"):
        export_onnx(folder, folder)
    assert load_segmenter(folder)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_told_before_any_work(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # what "not installed" looks like to an import
    with pytest.raises(ModuleNotFoundError) as raised:
        export_onnx(tmp_path / "nowhere", tmp_path / "model.onnx")
    assert raised.value.name == package
