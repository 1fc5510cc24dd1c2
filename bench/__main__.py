"""The table: each row the ratio of a plain reference to ctm, on the same inputs in the same run."""

from __future__ import annotations

import argparse
import os
from itertools import chain

import torch

from bench.data import data_rows, memory_lines, rate_lines
from bench.models import DEFAULT, PAPER, model_rows
from bench.row import HEADER, measured


def main() -> None:
    """Prints the table; exits with an error if a reference and ours disagree."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["models", "data"], help="one part only")
    parser.add_argument("--paper-sizes", action="store_true", help="DFC2020 as in the paper: 15 x 224 x 224, ViT-B/14")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side of a row (default 5)")
    options = parser.parse_args()
    sizes = PAPER if options.paper_sizes else DEFAULT
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} at the start; median of {options.repeats}, interleaved\n{sizes}\n\n{HEADER}",
        flush=True,
    )
    if options.part != "data":
        for row in model_rows(sizes):
            print(measured(row, repeats=options.repeats), flush=True)
    if options.part != "models":
        for row in data_rows():
            print(measured(row, repeats=options.repeats), flush=True)
        for line in chain(rate_lines(), memory_lines()):
            print(line, flush=True)


if __name__ == "__main__":
    main()
