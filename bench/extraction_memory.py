"""Lines of the table: memory of extraction, which must not grow with the number of images."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.image_shards import class_table, input_spec, write_image_shards
from bench.measure import MEGABYTE, allocated_megabytes
from bench.models import make_model
from bench.sizes import Sizes
from ctm.models.io import save_classifier
from ctm.models.pruning import prune_heads
from ctm.params import load_preset, to_yaml

__all__ = ["extract_command", "extraction_memory_lines", "write_extraction_inputs"]

TINY = Sizes(3, (32, 32), 8, classes=5, depth=2, width=24, heads=3, batch=16)

CHANGES = ["extract_pseudomasks.splits=[train]"]


def extraction_memory_lines(samples: Sequence[int] = (100, 1_000, 10_000)) -> Iterator[str]:
    """Peak memory of ``ctm extract-pseudomasks`` without its libraries' files, and what an image more adds to it."""
    height, width = TINY.image
    yield f"\npeak memory that ctm extract-pseudomasks allocates, images of {height} x {width} pixels:"
    first = 0.0
    for number in samples:
        with TemporaryDirectory() as place:
            write_extraction_inputs(Path(place), number)
            peak = allocated_megabytes(extract_command(Path(place)))
        first = first or peak
        growth = (peak - first) * MEGABYTE / max(1, number - samples[0])
        yield f"  {number:>7,} images{peak:>9.1f} MB{peak / first:>8.3f}{growth:>9.0f} bytes an image"


def write_extraction_inputs(place: Path, samples: int) -> None:
    """Shards and a pruned classifier in ``place``."""
    write_image_shards(place / "shards", TINY, samples)
    model = prune_heads(make_model(TINY, closed=1))
    save_classifier(place / "pruned", model, classes=class_table(TINY), inputs=input_spec(TINY))
    (place / "params.yaml").write_text(to_yaml(load_preset("demo", CHANGES)))


def extract_command(place: Path) -> list[str | Path]:
    """``ctm extract-pseudomasks`` as a command of its own, on the CPU."""
    ctm = Path(sys.executable).with_name("ctm")
    return [
        *(ctm, "extract-pseudomasks", "--device", "cpu", "--params", place / "params.yaml"),
        *("--shards", place / "shards", "--pruned", place / "pruned", "--pseudomasks", place / "pseudomasks"),
        *("--metrics", place / "metrics.json", "--checkpoints", place / "checkpoints"),
    ]
