"""Device, precision, and seeds that depend on the step alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ctm.errors import ModelError
from ctm.runtime.context import Context, Launch, available_cores
from ctm.training.device import decoding_workers, pick_device, setup_fabric, step_seed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_told_when_it_is_asked_for_and_not_missed_otherwise():
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ModelError, match=r"no CUDA device can be used here\. Use --device cpu"):
        pick_device("cuda")


def test_fabric_says_nothing_of_itself_on_the_screen():
    lines = "import torch; from ctm.training.device import setup_fabric; setup_fabric(torch.device('cpu'), 'bf16')"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_half_precision_of_gpus_is_refused_on_the_cpu():
    with pytest.raises(ModelError, match=r"fp16 trains on a GPU only\. Use fp32 or bf16"):
        setup_fabric(torch.device("cpu"), "fp16")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_matrix_products_run_in_the_precision_and_weights_stay_in_fp32(precision, dtype):
    fabric = setup_fabric(torch.device("cpu"), precision)
    layer = fabric.setup_module(torch.nn.Linear(2, 2))
    inside = []
    layer.module.register_forward_hook(lambda module, inputs, output: inside.append(output.dtype))
    layer(torch.zeros(1, 2))
    assert inside == [dtype]
    assert layer.weight.dtype == torch.float32


def test_in_double_precision_weights_inputs_and_outputs_are_double():
    fabric = setup_fabric(torch.device("cpu"), "fp64")
    layer = fabric.setup_module(torch.nn.Linear(2, 2))
    with fabric.autocast():
        assert layer.weight.dtype == layer(torch.zeros(1, 2)).dtype == torch.float64


def test_every_step_has_a_seed_of_its_own_that_torch_takes():
    seeds = {step_seed(seed, epoch, batch) for seed in range(5) for epoch in range(5) for batch in range(20)}
    assert len(seeds) == 500
    assert step_seed(3, 1, 2) == step_seed(3, 1, 2)
    for seed in seeds:
        torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("workers", "device", "world", "expected"),
    [(None, "cpu", 1, 0), (3, "cpu", 1, 3), (0, "cuda", 1, 0), (None, "cuda", 1, None), (None, "cuda", 10**6, 1)],
)
def test_a_gpu_has_decoding_processes_for_its_share_of_the_cores(workers, device, world, expected, tmp_path):
    launch = Launch(world=world, local_world=world)
    context = Context(device="auto", workers=workers, checkpoints=tmp_path, resume=False, launch=launch)
    if expected is None:
        expected = max(1, min(8, available_cores() - 1))
    assert decoding_workers(context, torch.device(device)) == expected
