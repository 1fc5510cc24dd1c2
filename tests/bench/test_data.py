"""The bench's rows of data compare like with like, and its measure of memory measures."""

from __future__ import annotations

import sys

import pytest

from bench.data import data_rows, preprocess_command, rate_lines, write_photographs
from bench.measure import allocated_megabytes, resident_megabytes
from ctm.data.shards import ShardFolder


def test_both_sides_of_every_row_give_the_same() -> None:
    names = []
    for row in data_rows(photographs=10, loaded=10):
        assert row.agree is not None
        assert row.agree(row.reference(), row.ours()), row.name
        names.append(row.name)
    assert len(names) == 3


def test_rates_are_told_for_every_size_of_the_paper() -> None:
    lines = list(rate_lines(photographs=5, patches=5))[1:]
    assert [line.split()[0] for line in lines] == ["voc2012", "coco2014", "ade20k", "endotect", "dfc2020"]
    assert all(float(line.split()[-2]) > 0 for line in lines)


def test_the_command_whose_memory_is_measured_works(tmp_path) -> None:
    write_photographs(tmp_path / "raw", 10)
    assert resident_megabytes(preprocess_command(tmp_path / "raw", tmp_path, workers=1)) > 30
    assert len(ShardFolder.open(tmp_path / "out").split("train")) == 8


@pytest.mark.parametrize("script", ["x", "import subprocess, sys; subprocess.run([sys.executable, '-c', x])"])
def test_resident_memory_is_that_of_the_command_and_its_children(script) -> None:
    hold = "import time; block = bytearray(200_000_000); block[::4096] = b'1' * len(block[::4096]); time.sleep(0.3)"
    code = hold if script == "x" else script.replace("x])", f"{hold!r}])")
    assert 200 < resident_megabytes([sys.executable, "-c", code]) < 260


def test_allocated_memory_leaves_out_files_that_are_mapped(tmp_path) -> None:
    (tmp_path / "large").write_bytes(bytes(200_000_000))
    code = (
        "import mmap, sys, time; file = open(sys.argv[1], 'rb'); held = bytearray(50_000_000); "
        "held[::4096] = b'1' * len(held[::4096]); seen = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); "
        "sum(seen[::4096]); time.sleep(0.3)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large")]
    assert 50 < allocated_megabytes(command) < 120
    assert resident_megabytes(command) > 250
