"""The parts of the table: which rows there are, and at which sizes they are shown. A new part is one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from bench.classes import class_rows
from bench.data import data_rows, memory_lines, rate_lines
from bench.evaluation import evaluation_rows
from bench.extraction import extraction_rows
from bench.extraction_memory import extraction_memory_lines
from bench.models import model_rows
from bench.predict import predict_lines
from bench.row import Row
from bench.sizes import Setting
from bench.training import training_rows

__all__ = ["PAPER", "SIZED", "UNSIZED"]

SIZED: dict[str, tuple[Callable[[Setting], Iterator[Row | str]], str]] = {
    "models": (model_rows, "photographs"),
    "training": (training_rows, "endotect-s"),
    "extraction": (extraction_rows, "endotect-s"),
}
"""By the name that the command line takes: rows of a setting, and the sizes at which a CPU is shown them unless others
are asked for."""

UNSIZED: dict[str, Callable[[], Iterator[Row | str]]] = {
    "classes": class_rows,
    "evaluation": evaluation_rows,
    "memory": extraction_memory_lines,
    "predict": lambda: predict_lines(sides=(1_000, 4_000), windows=2),  # its default takes ten minutes
    "data": lambda: chain(data_rows(), rate_lines(), memory_lines()),
}
"""Parts that have sizes of their own, and run on the CPU."""

PAPER = ("dfc2020", "endotect", "ade20k")
"""The sizes at which a GPU is shown the rows unless others are asked for."""
