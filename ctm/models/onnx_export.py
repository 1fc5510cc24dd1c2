"""A segmenter as an ONNX file, which runs without torch and ctm; kept only if it computes what torch does."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.errors import ArtifactError, ModelError
from ctm.models.segmenter import load_segmenter
from ctm.runtime.outputs import staged_outputs

__all__ = ["TOLERANCE", "check_onnx", "export_onnx"]

TOLERANCE = 1e-4
"""Largest difference of a logit from torch's, as a share of the largest logit (of 1 where all are smaller)."""

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
"""What the extra ``onnx`` installs; torch's exporter needs the last."""
INPUT, OUTPUT = "images", "logits"
OPSET = 18
"""Version of ONNX's operators: that of torch's exporter, which converts to others only as far as it can."""
BATCHES = (1, 3)
"""Sizes of the batches that are compared."""
SPREAD = 2
"""Standard deviations about the mean, within which random values are drawn."""


class StoredValues(nn.Module):
    """A segmenter that takes stored pixel values: scale and standardisation are its own."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, inputs: InputSpec) -> None:
        super().__init__()
        self.model, self.scale = model, inputs.scale
        self.register_buffer("mean", torch.tensor(inputs.mean or [0.0] * inputs.channels)[:, None, None])
        self.register_buffer("std", torch.tensor(inputs.std or [1.0] * inputs.channels)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) of stored pixel values (B, Ch, H, W), float32, at the model's size."""
        logits: Tensor = self.model((images * self.scale - self.mean) / self.std)
        return logits


def export_onnx(folder: Path, file: Path) -> float:
    """Writes a segmenter as an ONNX file, whole or not at all.

    Its input ``images`` is float32 (B, Ch, H, W) for any B: pixel values as they are stored, which for photographs is
    0..255, already resized to the model's height and width. Its output ``logits`` is (B, K, H, W). The metadata say
    what the values mean: ``classes`` and ``background`` (JSON), ``image_size``, ``channels`` and ``values``.

    Args:
        folder: a segmenter that ``train-segmenter`` wrote.
        file: what is written; a file there is replaced.

    Returns:
        The largest difference of a logit from torch's, as a share of the largest logit; see ``check_onnx``.

    Raises:
        ArtifactError: there is no such segmenter, or ``file`` is a folder.
        ModelError: the segmenter cannot be exported, or onnxruntime computes something else than torch.
        ModuleNotFoundError: the extra ``onnx`` is not installed.
    """
    if file.is_dir():
        raise ArtifactError(f"{file} is a folder; name a file, such as {file / 'segmenter.onnx'}")
    for package in PACKAGES:  # what is missing is told before any work
        import_module(package)
    model, classes, inputs = load_segmenter(folder)
    stored = StoredValues(model, inputs).eval()
    with staged_outputs({"onnx": file}) as staged:
        _write(staged["onnx"], stored, inputs)
        _describe(staged["onnx"], classes, inputs)
        return check_onnx(staged["onnx"], stored, inputs)


def _write(file: Path, model: StoredValues, inputs: InputSpec) -> None:
    example = torch.zeros(2, inputs.channels, *inputs.image_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the libraries will do differently one day
            torch.onnx.export(
                model,
                (example,),
                file,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "no reason given")
        raise ModelError(
            f"the segmenter cannot be exported to ONNX: {reason} Train one of another arch or encoder, or use "
            "`ctm predict`."
        ) from error


def _describe(file: Path, classes: ClassTable, inputs: InputSpec) -> None:
    """Adds to the file what its numbers mean."""
    import onnx

    model = onnx.load(file)
    about = {
        "classes": json.dumps(classes.names, ensure_ascii=False),
        "background": json.dumps(classes.background),
        "image_size": json.dumps(inputs.image_size),
        "channels": json.dumps(inputs.channels),
        "values": json.dumps(inputs.values),
    }
    onnx.helper.set_model_props(model, about)
    onnx.save(model, file)


def check_onnx(file: Path, model: nn.Module, inputs: InputSpec) -> float:
    """Compares onnxruntime on the CPU with torch, on random and on constant images, one by one and three at once.

    Args:
        file: the ONNX file.
        model: what it was made from, in evaluation mode on the CPU.
        inputs: what the model takes.

    Returns:
        The largest difference of a logit, as a share of the largest logit of torch's (of 1 where all are smaller).

    Raises:
        ModelError: it is above ``TOLERANCE``, or the file does not run.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        largest = float(np.max([_difference(session, model, images) for images in _examples(inputs)]))  # NaN counts
    except Exception as error:  # onnxruntime's errors have no base of their own
        reason = " ".join(str(error).split())
        raise ModelError(f"the exported segmenter does not run in onnxruntime ({reason}); it is not kept") from error
    if not largest <= TOLERANCE:
        raise ModelError(
            f"the exported segmenter differs from torch by {largest:.2g} of the largest logit, more than "
            f"{TOLERANCE:g}; it is not kept. Report it with the arch and encoder; `ctm predict` uses torch."
        )
    return largest


def _examples(inputs: InputSpec) -> Iterator[NDArray[np.float32]]:
    """Images (B, Ch, H, W) of stored values, random ones and constant ones, within the range of the training images."""
    rng = np.random.default_rng(0)
    mean, std = np.array(inputs.mean or [0.5]), np.array(inputs.std or [0.25])  # scaled to [0, 1] where nothing is said
    for batch in BATCHES:
        places = rng.uniform(-SPREAD, SPREAD, size=(batch, inputs.channels, *inputs.image_size))
        for deviation in (places, np.ones_like(places)):
            values = mean.reshape(-1, 1, 1) + deviation * std.reshape(-1, 1, 1)
            yield (values / inputs.scale).astype(np.float32)


def _difference(session: Any, model: nn.Module, images: NDArray[np.float32]) -> float:
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    [found] = session.run([OUTPUT], {INPUT: images})
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1.0))
