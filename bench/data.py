"""Rows of the table: preprocess with more workers, the loader against a plain folder of PNG files; and flat memory."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from bench.measure import resident_megabytes
from bench.row import Row
from ctm.data.config import DatasetConfig, PreprocessConfig
from ctm.data.datasets import open_dataset
from ctm.data.datasets.demo import write_demo
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset, make_loader
from ctm.data.pack import IMAGENET_MEAN, IMAGENET_STD, Packing, write_dataset_shards
from ctm.data.shards import TRUTH, ShardFolder, Split
from ctm.params import load_preset, to_yaml
from ctm.runtime.storage import open_tree

__all__ = ["data_rows", "memory_lines", "rate_lines", "write_photographs"]

SIZES = {"voc2012": (375, 500), "coco2014": (480, 640), "ade20k": (512, 683), "endotect": (576, 720)}
"""Height and width of a usual photograph of each data set."""
IMAGE_SIZE = (224, 224)
BATCH = 32
DISTINCT = 40
"""Different photographs; more files than these are copies."""
CONFIG = DatasetConfig(format="folder", root="", normalise="statistics")


def data_rows(*, photographs: int = 2000, loaded: int = 500) -> Iterator[Row]:
    """The rows, each made when the one before has been measured.

    Args:
        photographs: number of files that preprocess reads.
        loaded: number of files of which the loaders read the train split.
    """
    with TemporaryDirectory() as place:
        raw, few = Path(place) / "raw", Path(place) / "few"
        write_photographs(raw, photographs)
        numbers = count()

        def preprocess(workers: int) -> Callable[[], object]:
            return lambda: pack(raw, Path(place) / f"shards{next(numbers)}", workers=workers)

        name = f"preprocess {photographs} photographs: 1 worker ÷ 2 workers"
        yield Row(name, preprocess(1), preprocess(2), same_shards, samples=photographs)
        write_photographs(few, loaded)
        split = pack(few, Path(place) / "shards", workers=1).split("train")
        write_pngs(Path(place) / "png", split)
        for workers in (0, 2):
            plain = DataLoader(PngFolder(Path(place) / "png", split.keys), batch_size=BATCH, num_workers=workers)
            ours = shard_loader(split, workers=workers)
            name = f"loader, image and mask, {workers} workers: PNG ÷ shards"
            yield Row(name, partial(consume, plain), partial(consume, ours), same_batch, samples=len(split))


def memory_lines(*, photographs: int = 500) -> Iterator[str]:
    """Peak memory of ``ctm preprocess`` for once, four times and sixteen times as many images."""
    yield "\npeak memory of ctm preprocess, all processes:"
    with TemporaryDirectory() as place:
        for workers in (1, 2):
            first = 0.0
            for times in (1, 4, 16):
                raw = Path(place) / f"raw{times}"
                if not raw.exists():
                    write_photographs(raw, photographs * times)
                peak = resident_megabytes(preprocess_command(raw, Path(place), workers=workers))
                first = first or peak
                yield f"  {workers} workers, {photographs * times:>6,} photographs{peak:>9.1f} MB{peak / first:>8.3f}"


def preprocess_command(raw: Path, place: Path, *, workers: int) -> list[str | Path]:
    """``ctm preprocess`` as a command of its own, writing to ``place``."""
    ctm = Path(sys.executable).with_name("ctm")
    params = place / "params.yaml"
    params.write_text(to_yaml(load_preset("photographs", ["dataset.normalise=statistics"])))
    outputs = ["--shards", place / "out", "--contact-sheet", place / "sheet.png", "--metrics", place / "metrics.json"]
    return [
        *(ctm, "preprocess", "--params", params, "--raw", raw, *outputs, "--checkpoints", place / "checkpoints"),
        *("--workers", str(workers)),
    ]


def rate_lines(*, photographs: int = 240, patches: int = 100) -> Iterator[str]:
    """Images a second that one process of preprocess reads, checks and writes, at the paper's data sets' sizes."""
    yield "\npreprocess, one worker, at the sizes of:"
    with TemporaryDirectory() as place:
        for name, size in SIZES.items():
            raw = Path(place) / name
            write_photographs(raw, photographs, size=size)
            yield _rate_line(name, f"{size[1]} x {size[0]} photographs with masks", raw, CONFIG, photographs)
        raw = Path(place) / "dfc2020"
        write_demo(raw, train=patches * 4 // 5, val=patches // 5, size=256)
        config = DatasetConfig(format="dfc2020", root="", normalise="none")
        yield _rate_line("dfc2020", "15 x 256 x 256 patches with land cover", raw, config, patches)


def _rate_line(name: str, what: str, raw: Path, config: DatasetConfig, samples: int) -> str:
    start = perf_counter()
    pack(raw, raw.with_name(f"{name}-shards"), workers=1, config=config)
    return f"  {name:<10}{what:<42}{samples / (perf_counter() - start):>8.0f} /s"


def write_photographs(root: Path, number: int, *, size: tuple[int, int] = SIZES["voc2012"]) -> None:
    """JPEG files with structure at all scales, masks and labels, in the layout ``folder``.

    Args:
        root: where they go.
        number: how many.
        size: height and width in pixels.
    """
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"photo{n:06d}" for n in range(number)]
    for n, name in enumerate(names):
        image, mask = root / "images" / f"{name}.jpg", root / "masks" / f"{name}.png"
        if n < DISTINCT:
            Image.fromarray(photograph(rng, size)).save(image, quality=90)
            Image.fromarray(smooth_mask(rng, size)).save(mask)
        else:
            shutil.copyfile(root / "images" / f"{names[n % DISTINCT]}.jpg", image)
            shutil.copyfile(root / "masks" / f"{names[n % DISTINCT]}.png", mask)
    (root / "classes.txt").write_text("dark\nbright\n", encoding="utf-8")
    (root / "labels.csv").write_text("image,classes\n" + "".join(f"{name},dark;bright\n" for name in names))
    (root / "splits" / "train.txt").write_text("\n".join(names[: number * 4 // 5]))
    (root / "splits" / "val.txt").write_text("\n".join(names[number * 4 // 5 :]))


def photograph(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Noise whose amplitude falls with its frequency, as that of photographs does, (H, W, 3)."""
    total = np.zeros((*size, 3))
    for side in (4, 8, 16, 32, 64, 128):
        coarse = rng.integers(0, 256, size=(side, side, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)) / side
    total += rng.normal(0, 2, size=total.shape)
    return np.clip(255 * (total - total.min()) / np.ptp(total), 0, 255).astype(np.uint8)


def smooth_mask(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Two classes with a smooth border, (H, W)."""
    coarse = Image.fromarray(rng.integers(0, 256, size=(6, 8), dtype=np.uint8))
    return (np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC)) > 128).astype(np.uint8)


def pack(raw: Path, folder: Path, *, workers: int, config: DatasetConfig = CONFIG) -> ShardFolder:
    """Preprocess without the command line."""
    tree = open_tree(str(raw))
    packing = Packing("statistics", PreprocessConfig(), workers, folder.with_name(f"{folder.name}.progress"), False)
    write_dataset_shards(open_dataset(config, tree), tree, folder, packing)
    return ShardFolder.open(folder)


def write_pngs(folder: Path, split: Split) -> None:
    """Images and masks of a split as the field's repositories keep them: a PNG file each."""
    folder.mkdir()
    for index, key in enumerate(split.keys):
        Image.fromarray(split.image(index).transpose(1, 2, 0)).save(folder / f"{key}.png")
        Image.fromarray(split.mask(index, TRUTH)).save(folder / f"{key}_mask.png")


class PngFolder(Dataset[tuple[Any, Any]]):
    """The plain way: open two files, transform with torchvision."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._folder, self._names = folder, names
        scale = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Resize(IMAGE_SIZE, antialias=True)]
        self._image = v2.Compose([*scale, v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
        self._mask = v2.Compose([v2.PILToTensor(), v2.Resize(IMAGE_SIZE, v2.InterpolationMode.NEAREST_EXACT)])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        name = self._names[index]
        with Image.open(self._folder / f"{name}.png") as image, Image.open(self._folder / f"{name}_mask.png") as mask:
            return self._image(image.convert("RGB")), self._mask(mask)[0].long()


def shard_loader(split: Split, *, workers: int) -> DataLoader[Any]:
    """The same batches from shards."""
    inputs = InputSpec(IMAGE_SIZE, 3, 1 / 255, IMAGENET_MEAN, IMAGENET_STD)
    dataset = ShardDataset(split, inputs, masks=split, mask_member=TRUTH)
    return make_loader(dataset, batch_size=BATCH, shuffle=False, seed=0, workers=workers)


def consume(loader: DataLoader[Any]) -> tuple[Tensor, Tensor]:
    """Takes every batch; images and masks of the first."""
    first, *_ = list(loader)
    return (first["image"], first["mask"]) if isinstance(first, dict) else tuple(first)


def same_batch(reference: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> bool:
    """Whether two batches hold the same masks, and the same images up to rounding."""
    return torch.equal(reference[1], ours[1]) and bool((reference[0] - ours[0]).abs().max() < 1e-4)


def same_shards(reference: ShardFolder, ours: ShardFolder) -> bool:
    """Whether two folders hold the same bytes: the index has the digest of every file."""
    return reference.index == ours.index
