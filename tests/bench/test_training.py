"""The bench's plain training step computes what ctm's does, and the table's parts are chosen as asked."""

from __future__ import annotations

import pytest
import torch

from bench.models import close
from bench.row import measured
from bench.sizes import Setting, Sizes
from bench.training import PlainSteps, Steps, training_rows

TINY = Sizes(channels=2, image=(16, 20), patch=4, classes=5, depth=3, width=24, heads=4, batch=3)


def test_plain_steps_have_the_losses_of_ours_also_after_updates():
    plain, ours = PlainSteps(Setting(TINY)), Steps(Setting(TINY))
    theirs, losses = (torch.stack([steps() for _ in range(4)]) for steps in (plain, ours))
    assert len(set(losses.tolist())) == 4
    assert close(theirs, losses, tolerance=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_row_of_training_agrees_and_is_measured(precision):
    (row,) = training_rows(Setting(TINY, precision=precision))
    assert measured(row, repeats=1).count(" MB") == 2
