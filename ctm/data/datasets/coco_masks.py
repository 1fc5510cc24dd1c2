"""Masks that others have made of COCO's annotations, in two encodings: values without gaps, or COCO's category ids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.datasets.coco_classes import MASK_VALUES, NEVER_USED
from ctm.data.datasets.photographs import check_values, mask_values, read_photograph, stored_mask
from ctm.data.datasets.reader import Entry, RawFile, present_labels
from ctm.data.sample import Sample, decode_mask
from ctm.errors import DataError
from ctm.runtime.storage import Tree

__all__ = ["DecodeMasked", "recognised_encoding"]

logger = logging.getLogger(__name__)

Encoding = Literal["contiguous", "category_id"]
ENCODINGS: dict[Encoding, str] = {
    "contiguous": "0 to 80 (dataset.mask_encoding: contiguous)",
    "category_id": "0 and COCO's 80 category ids up to 90 (dataset.mask_encoding: category_id)",
}
PROOFS: dict[Encoding, frozenset[int]] = {
    "contiguous": frozenset(number for number in NEVER_USED if number <= 80),
    "category_id": frozenset(range(81, 91)),
}
"""Values that occur in one encoding only: all others occur in both, with another meaning."""
PROOF_MASKS = 2000
"""From how many masks the encoding is recognised: some classes are rare, but no proof is that rare."""
BATCH = 64
"""How many masks are read at a time."""


def recognised_encoding(tree: Tree, paths: Sequence[str]) -> Encoding:
    """The encoding of all masks, from the values that at most ``PROOF_MASKS`` of them hold.

    Raises:
        DataError: the masks are of both encodings, or nothing tells which.
    """
    count = min(len(paths), PROOF_MASKS)
    proofs: dict[Encoding, str] = {}
    for path, values in _values(tree, [paths[number * len(paths) // count] for number in range(count)]):
        for encoding, proof in PROOFS.items():
            if not proof.isdisjoint(values):
                proofs.setdefault(encoding, path)
    if len(proofs) > 1:
        raise DataError(
            f"the masks are of two encodings: {tree.place(proofs['category_id'])} holds category ids above 80, "
            f"{tree.place(proofs['contiguous'])} a value that is no category id; make all of one kind"
        )
    if not proofs:
        raise DataError(
            f"{tree.uri}: none of {count} masks holds a value that tells their encoding; set dataset.mask_encoding to "
            "contiguous (values 0 to 80) or category_id (COCO's ids up to 90)"
        )
    encoding = next(iter(proofs))
    logger.info("mask values are %s, as recognised from %d of %d masks", ENCODINGS[encoding], count, len(paths))
    return encoding


def _values(tree: Tree, paths: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """The values of each mask; those that cannot be read are for ``DecodeMasked`` to complain of."""
    for start in range(0, len(paths), BATCH):
        batch = {path: tree.files[path] for path in paths[start : start + BATCH]}
        for path, data in tree.read_all(batch).items():
            try:
                yield path, mask_values(decode_mask(data))
            except DataError:
                continue


@dataclass(frozen=True)
class DecodeMasked:
    """Makes a sample of a photograph and its mask."""

    classes: ClassTable
    encoding: Encoding
    min_label_fraction: float

    def __call__(self, entry: Entry, files: Mapping[str, RawFile]) -> Sample:
        """Decodes and validates one sample."""
        photograph = read_photograph(files["image"])
        mask = self._mask(files["mask"], photograph.size)
        labels = present_labels(mask, self.classes, min_fraction=self.min_label_fraction)
        return photograph.sample(entry.key, labels=labels, mask=mask)

    def _mask(self, file: RawFile, size: tuple[int, int]) -> NDArray[np.uint8]:
        stored = stored_mask(file, size=size)
        ids = MASK_VALUES if self.encoding == "category_id" else MASK_VALUES.values()
        meaning = dict(zip((0, *ids), (0, *MASK_VALUES.values()), strict=True))
        check_values(file, stored, meaning, ENCODINGS[self.encoding])
        table = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        table[list(meaning)] = list(meaning.values())
        return table[stored]
