"""What the tests of scores and pages share: a classifier, untrained, tiny and pruned, and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.pruning import prune_heads
from ctm.params import Params


@pytest.fixture(scope="module")
def model(tiny_params: Params) -> ClassTokenViT:
    """A classifier of the demo's classes, the same in every module."""
    torch.manual_seed(0)
    return prune_heads(ClassTokenViT(tiny_params.model, tiny_params.gates, num_classes=8, in_channels=15).eval())


def ctm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``ctm`` in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "ctm.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
