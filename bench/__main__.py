"""The table: each row the ratio of a plain reference to ctm, on the same inputs in the same run."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from dataclasses import replace

import torch

from bench.parts import PAPER, SIZED, UNSIZED
from bench.row import HEADER, Row, measured
from bench.sizes import SIZES, Setting
from ctm.runtime.log import show_log


def main() -> None:
    """Prints the table; exits with an error if a reference and ours disagree."""
    options = parser().parse_args()
    show_log(logging.ERROR)  # the networks here have learned nothing, and need not say so
    print(f"{machine()}; median of {options.repeats}, interleaved\n\n{HEADER}", flush=True)
    for line in lines(options):
        print(measured(line, repeats=options.repeats) if isinstance(line, Row) else line, flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    result.add_argument("parts", nargs="*", metavar="part", help=f"some parts only: {', '.join([*SIZED, *UNSIZED])}")
    result.add_argument("--size", choices=SIZES, action="append", help="sizes; each part has its own (repeatable)")
    result.add_argument("--device", choices=["cpu", "cuda"], help="default: the CPU, then the GPU if there is one")
    result.add_argument("--precision", choices=["fp32", "bf16"], help="of ours; default fp32 on the CPU, bf16 on a GPU")
    result.add_argument("--compile", action="store_true", help="rows with torch.compile on the CPU, too")
    result.add_argument("--repeats", type=int, default=5, help="timed runs of each side of a row (default 5)")
    return result


def machine() -> str:
    """What the table was measured on."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores{gpu}, load "
        f"{os.getloadavg()[0]:.1f} at the start"
    )


def lines(options: argparse.Namespace) -> Iterator[Row | str]:
    """Rows and headings, each made when the one before has been measured.

    Raises:
        SystemExit: a part has no such name.
    """
    chosen = options.parts or [*SIZED, *UNSIZED]
    if unknown := set(chosen) - {*SIZED, *UNSIZED}:
        raise SystemExit(f"error: no part {unknown.pop()!r}; parts: {', '.join([*SIZED, *UNSIZED])}")
    for device in [options.device] if options.device else ["cpu", "cuda"][: 1 + torch.cuda.is_available()]:
        setting = Setting(
            SIZES["photographs"],
            torch.device(device),
            options.precision or ("fp32" if device == "cpu" else "bf16"),
            compiled=options.compile or device == "cuda",
        )
        yield from sized(setting, [part for part in SIZED if part in chosen], options.size)
    for part, rows in UNSIZED.items():
        if part in chosen:
            yield from rows()


def sized(setting: Setting, parts: list[str], asked: list[str] | None) -> Iterator[Row | str]:
    """The parts that depend on the sizes, on one device, size by size."""
    for name, sizes in SIZES.items():
        here = replace(setting, sizes=sizes, name=name)
        shown = [part for part in parts if name in (asked or shown_at(part, setting.device))]
        if shown:
            yield f"\n{here}"
        for part in shown:
            yield from SIZED[part][0](here)


def shown_at(part: str, device: torch.device) -> tuple[str, ...]:
    """Names of the sizes at which a device is shown a part."""
    return (SIZED[part][1],) if device.type == "cpu" else PAPER


if __name__ == "__main__":
    main()
