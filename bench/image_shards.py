"""Images with labels as shards and a classifier for them: what extraction reads."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data import photograph
from bench.models import two_or_three
from bench.sizes import Sizes
from ctm.data.classes import ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.sample import encode_array
from ctm.data.shard_index import ShardIndex, write_index
from ctm.data.shard_writer import ShardWriter
from ctm.data.shards import ShardFolder

__all__ = ["class_table", "input_spec", "write_image_shards"]

DISTINCT = 10
"""Different images; more are copies."""


def class_table(sizes: Sizes) -> ClassTable:
    """Classes by number, each with a token."""
    return ClassTable(tuple(map(str, range(sizes.classes))))


def input_spec(sizes: Sizes) -> InputSpec:
    """Images as they are, scaled to 0..1."""
    return InputSpec(sizes.image, sizes.channels, 1 / 255)


def write_image_shards(folder: Path, sizes: Sizes, samples: int, *, split: str = "train") -> ShardFolder:
    """Images of the model's own size with two or three labels each: JPEG, or arrays where there are other bands."""
    classes, labels = class_table(sizes), two_or_three(sizes, samples)
    images = [encoded_image(sizes, number) for number in range(min(samples, DISTINCT))]
    with ShardWriter(folder, split, classes=classes) as writer:
        for number in range(samples):
            extension, data = images[number % len(images)]
            height, width = sizes.image
            present = labels[number].nonzero().flatten().tolist()
            writer.add(f"image{number:06d}", {extension: data}, labels=present, height=height, width=width)
    about = ShardIndex(
        kind="images",
        classes=classes.names,
        background=None,
        channels=sizes.channels,
        scale=1 / 255,
        splits={split: writer.entry},
    )
    write_index(folder, about)
    return ShardFolder.open(folder)


def encoded_image(sizes: Sizes, number: int) -> tuple[str, bytes]:
    """Extension and bytes of an image."""
    rng = np.random.default_rng(number)
    if sizes.channels != 3:
        bands = [photograph(rng, sizes.image)[..., 0] for _ in range(sizes.channels)]
        return "npy", encode_array(np.stack(bands))
    buffer = io.BytesIO()
    Image.fromarray(photograph(rng, sizes.image)).save(buffer, format="JPEG", quality=90)
    return "jpg", buffer.getvalue()
