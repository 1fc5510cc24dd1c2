"""torch.compile: the same training where it works, and a training without it, and a warning, where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctm.training.compiling import compile_network, plain_if_not_compiled

pytestmark = pytest.mark.slow


def test_an_error_of_the_network_itself_is_no_fault_of_the_compiler():
    model = nn.Linear(2, 2)
    compile_network(model)

    def fail() -> None:
        raise ValueError("of the network")

    with pytest.raises(ValueError, match="of the network"):
        plain_if_not_compiled(model, fail)
    assert plain_if_not_compiled(model, lambda: torch.ones(2)).tolist() == [1, 1]
