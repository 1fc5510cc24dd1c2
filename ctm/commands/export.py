"""``ctm export``: a segmenter as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


def export(
    model: Annotated[Path, typer.Option("--model", metavar="DIR", help="Output of train-segmenter.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the ONNX file.")],
) -> None:
    """A segmenter as an ONNX file that runs without ctm; kept only if onnxruntime computes what torch does."""
    from ctm.models.onnx_export import TOLERANCE, export_onnx

    difference = export_onnx(model, out)
    typer.echo(
        f"wrote {out}; its logits differ from torch's by {difference:.1g} of the largest (allowed: {TOLERANCE:g})"
    )
