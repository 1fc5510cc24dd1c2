"""The rows that a GPU is shown agree there, in the precision in which it is shown them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.extraction import extraction_rows
from bench.models import model_rows
from bench.row import measured
from bench.sizes import Setting, Sizes
from bench.training import training_rows

TINY = Sizes(channels=3, image=(32, 40), patch=4, classes=5, depth=3, width=24, heads=4, batch=2, gpu_batch=3)
GPU = Setting(TINY, torch.device("cuda"), "bf16", compiled=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("rows", [model_rows, training_rows, extraction_rows])
def test_the_rows_agree_and_are_measured_on_a_gpu(rows):
    assert all(measured(row, repeats=1) for row in rows(GPU))


def test_a_gpu_takes_the_batch_of_the_preset_and_says_so():
    assert (GPU.batch, replace(GPU, device=torch.device("cpu")).batch) == (3, 2)
    assert str(replace(GPU, name="tiny")) == (
        "tiny: 3 x 32 x 40, 5 classes, 86 tokens of width 24, 3 blocks of 4 heads; batch 3; "
        "cuda, reference fp32, ours bf16"
    )
