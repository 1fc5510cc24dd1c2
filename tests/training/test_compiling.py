"""torch.compile: the same training where it works, and a training without it, and a warning, where it does not."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from ctm.training.compiling import compile_network, plain_if_not_compiled

pytestmark = pytest.mark.slow


def test_where_nothing_can_be_compiled_the_training_goes_on_with_a_warning(trainings_of, monkeypatch):
    trainings = trainings_of("train_classifier", epochs=2)
    assert trainings.run("plain")[0] == 0
    compiling = trainings_of("train_classifier", epochs=2, compile=True)
    monkeypatch.setenv("CXX", "/no/compiler/here")
    code, log = compiling.run("compiled")
    assert code == 0, log
    assert "torch.compile does not work here (" in log
    assert "): the network is trained as it is" in log
    assert "Traceback" not in log
    written = [
        (run.folder(name) / "model.safetensors").read_bytes()
        for run, name in ((trainings, "plain"), (compiling, "compiled"))
    ]
    assert written[0] == written[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_training_has_the_curve_of_a_plain_one(trainings_of):
    plain = trainings_of("train_classifier", epochs=2)
    assert plain.run("plain")[0] == 0
    compiled = trainings_of("train_classifier", epochs=2, compile=True)
    code, log = compiled.run("compiled")
    assert code == 0, log
    assert "does not work" not in log
    for row, expected in zip(compiled.curve("compiled"), plain.curve("plain"), strict=True):
        assert row == pytest.approx(expected, rel=1e-3)


def test_an_error_of_the_network_itself_is_no_fault_of_the_compiler():
    model = nn.Linear(2, 2)
    compile_network(model)

    def fail() -> None:
        raise ValueError("of the network")

    with pytest.raises(ValueError, match="of the network"):
        plain_if_not_compiled(model, fail)
    assert plain_if_not_compiled(model, lambda: torch.ones(2)).tolist() == [1, 1]
