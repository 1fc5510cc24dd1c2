"""Time and memory of functions that are compared with each other."""

from __future__ import annotations

import gc
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["allocated_megabytes", "median_seconds", "peak_megabytes", "resident_megabytes"]

MEGABYTE = 1_000_000
CPU = torch.device("cpu")

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or torch's profiler writes to standard error at every start and stop


def median_seconds(
    functions: Sequence[Callable[[], object]], *, repeats: int, warmups: int = 1, device: torch.device = CPU
) -> list[float]:
    """Median seconds of each function over ``repeats`` rounds, in each of which every function runs once.

    The rounds go through the functions alternately forwards and backwards, so that what slows the machine down for a
    while slows down all of them. ``warmups`` more rounds before are not counted. What a GPU still has to do when a
    function returns belongs to its time.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    gc.collect()
    for turn in range(repeats + warmups):
        order = range(len(functions)) if turn % 2 else reversed(range(len(functions)))
        for number in order:
            _wait(device)
            start = perf_counter()
            functions[number]()
            _wait(device)
            seconds[number].append(perf_counter() - start)
    return [median(times[warmups:]) for times in seconds]


def peak_megabytes(function: Callable[[], object], *, device: torch.device = CPU) -> float:
    """Most memory that torch's allocator on the device holds at once for ``function``, in MB, beside what it held.

    It is counted from every allocation and release, not sampled, so another process or the C library's own cache does
    not change it. What the function returns is released after the count.
    """
    return _peak_on_gpu(function, device) if device.type == "cuda" else _peak_on_cpu(function)


def _peak_on_gpu(function: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = function()
    _wait(device)
    del result
    return (torch.cuda.max_memory_allocated(device) - before) / MEGABYTE


def _peak_on_cpu(function: Callable[[], object]) -> float:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = function()
    del result
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    changes: list[tuple[float, int]] = [(e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]"]
    changes.sort(key=lambda change: change[0])  # stable: events of one instant stay in their order
    return max(accumulate((size for _, size in changes), initial=0)) / MEGABYTE


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resident_megabytes(command: Sequence[str | Path]) -> float:
    """Most memory that a command and all processes that it starts hold at once, in MB.

    Read from Linux's /proc every 20 ms: the resident peak of each process that lives. Pages that several processes
    share count in each of them.

    Raises:
        CalledProcessError: the command fails.
    """
    return _most_at_once(command, "VmHWM:")


def allocated_megabytes(command: Sequence[str | Path]) -> float:
    """Like ``resident_megabytes``, without the pages of libraries and other files, as sampled every 20 ms.

    Of torch's libraries more or less is in memory as a process ends, which hides what the process itself needs.

    Raises:
        CalledProcessError: the command fails.
    """
    return _most_at_once(command, "RssAnon:")


def _most_at_once(command: Sequence[str | Path], field: str) -> float:
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, start_new_session=True, stdout=quiet, stderr=quiet) as process:
        peak, before = 0, 0
        while process.poll() is None:
            now = sum(_of_each_process(process.pid, field))
            # Twice in a row: a process that is just being started shows its parent's memory as its own.
            peak, before = max(peak, min(before, now)), now
            sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return peak * 1024 / MEGABYTE


def _of_each_process(session: int, field: str) -> Iterator[int]:
    """A field of its memory, in KiB, of every process of a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session:
                yield int((folder / "status").read_text().partition(field)[2].split()[0])
        except (OSError, IndexError):  # it has ended meanwhile
            continue
