from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctm.data.datasets.reader import RawFile
from ctm.data.datasets.sbd import read_sbd_mask
from ctm.data.datasets.voc2012 import CLASS_NAMES
from ctm.errors import DataError
from tests.miniatures.voc2012 import write_sbd_mask

scipy_io = pytest.importorskip("scipy.io", reason="writes the .mat files")
MASK = np.random.default_rng(0).integers(0, 21, size=(17, 23), dtype=np.uint8)


def read(data: bytes) -> np.ndarray:
    return read_sbd_mask(RawFile("cls/2008_000002.mat", data), size=MASK.shape, names=CLASS_NAMES)


def saved(path: Path, *, compressed: bool) -> bytes:
    write_sbd_mask(path / "a.mat", MASK, compressed=compressed)
    return (path / "a.mat").read_bytes()


def mat(variables: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, variables)
    return buffer.getvalue()


@pytest.mark.parametrize("compressed", [True, False])
def test_gives_the_mask_that_scipy_reads(tmp_path: Path, compressed: bool) -> None:
    data = saved(tmp_path, compressed=compressed)
    truth = scipy_io.loadmat(io.BytesIO(data))["GTcls"][0]["Segmentation"][0]
    np.testing.assert_array_equal(read(data), truth)
    np.testing.assert_array_equal(truth, MASK)


def test_other_variables_and_wider_integers_do_no_harm() -> None:
    data = mat({"about": "SBD", "GTcls": {"Segmentation": MASK.astype(np.int32)}, "more": np.eye(3)})
    assert read(data).dtype == np.uint8
    np.testing.assert_array_equal(read(data), MASK)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin as one of version 5"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "does not begin as one of version 5"),
        (mat({"GTinst": {"Segmentation": MASK}}), r"no variable 'GTcls'; found \['GTinst'\]"),
        (mat({"GTcls": {"Boundaries": MASK}}), r"'GTcls' has no field 'Segmentation'; found \['Boundaries'\]"),
        (mat({"GTcls": MASK}), "'GTcls' is no struct of one element"),
        (mat({"GTcls": {"Segmentation": "text"}}), "no matrix of numbers"),
        (mat({"GTcls": {"Segmentation": MASK + 0.5}}), "where integers should be"),
        (mat({"GTcls": {"Segmentation": np.full(MASK.shape, 260)}}), r"mask values \[260\] are no class"),
    ],
)
def test_a_file_of_another_kind_is_named(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"^cls/2008_000002\.mat.*{message}"):
        read(data)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, compressed: bool) -> None:
    data = saved(tmp_path, compressed=compressed)
    for end in range(len(data)):
        with pytest.raises(DataError, match=r"^cls/2008_000002\.mat is no readable MATLAB file of SBD"):
            read(data[:end])


@pytest.mark.parametrize("compressed", [True, False])
def test_no_damage_does_worse_than_an_error(tmp_path: Path, compressed: bool) -> None:
    data = saved(tmp_path, compressed=compressed)
    source = random.Random(0)
    for _ in range(2000):
        damaged = bytearray(data)
        start = source.randrange(len(data))
        damaged[start : start + source.choice([1, 4, 16])] = source.choice([b"\0", b"\xff", source.randbytes(2)])
        with contextlib.suppress(DataError):
            assert read(bytes(damaged)).shape == MASK.shape
