"""Writes the masks of a shard folder as files to look at: palette PNGs, or GeoTIFFs that lie where their images do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from ctm.data.classes import ClassTable
from ctm.data.libraries import load_rasterio
from ctm.data.mask_files import write_mask_geotiff, write_mask_png
from ctm.data.shards import TRUTH, ShardFolder, Split
from ctm.errors import ArtifactError
from ctm.runtime.outputs import check_new_folder, staged_outputs
from ctm.runtime.progress import track

__all__ = ["MaskFormat", "write_masks"]

MaskFormat = Literal["png", "geotiff"]
MEMBERS = {"images": TRUTH, "masks": "png"}
"""Which member of a sample is its mask, by kind of shards."""


def write_masks(artifact: Path, folder: Path, *, format: MaskFormat = "png") -> int:
    """Writes ``folder/<split>/<key>.png`` or ``.tif`` for every sample that has a mask, all of them or none.

    Args:
        artifact: a shard folder: images with truth, or pseudo-masks.
        folder: where the files go; it must not exist or be empty.
        format: ``png`` has the classes' palette; ``geotiff`` has it too, the image's coordinate reference system and
            transform, and 255 as its nodata value.

    Returns:
        The number of files written.

    Raises:
        ArtifactError: the artifact is missing or damaged, none of its samples has a mask, ``folder`` holds files, or
            a GeoTIFF is asked of a sample whose image does not say where it lies.
        DataError: a GeoTIFF is asked for and rasterio is missing.
        StorageError: the disk does not take a GeoTIFF.
    """
    check_new_folder(folder)
    shards = ShardFolder.open(artifact)
    write = partial(_write_geotiff if format == "geotiff" else _write_png, classes=shards.classes)
    with staged_outputs({"masks": folder.resolve()}) as staged:
        count = sum(
            _write_split(shards.split(name), MEMBERS[shards.index.kind], staged["masks"] / name, write=write)
            for name in shards.splits
        )
        if count == 0:
            raise ArtifactError(f"no sample of {artifact} has a mask; its raw data came without any")
    return count


def _write_split(split: Split, member: str, folder: Path, *, write: Callable[[Split, int, str, Path], None]) -> int:
    indices = [index for index in range(len(split)) if split.has(index, member)]
    if indices:
        folder.mkdir(parents=True)
    for index in track(indices, description=f"masks of {split.name}"):
        write(split, index, member, folder)
    return len(indices)


def _write_png(split: Split, index: int, member: str, folder: Path, *, classes: ClassTable) -> None:
    write_mask_png(folder / f"{split.keys[index]}.png", split.mask(index, member), classes)


def _write_geotiff(split: Split, index: int, member: str, folder: Path, *, classes: ClassTable) -> None:
    rasterio = load_rasterio()
    key, place = split.keys[index], split.georeference(index)
    if place is None:
        raise ArtifactError(
            f"{key!r} of split {split.name!r}: its image does not say where it lies, so no GeoTIFF can; "
            "use --format png"
        )
    mask = split.mask(index, member)
    size = (mask.shape[0], mask.shape[1])
    where = {"crs": place.crs, "transform": rasterio.Affine(*place.transform)}
    shown = Path(split.name) / f"{key}.tif"
    write_mask_geotiff(folder / f"{key}.tif", [mask], size, classes, shown=shown, compress="lzw", **where)
