"""The split of data sets that come without one: by a hash of each sample's key."""

from __future__ import annotations

import hashlib
from typing import Literal

__all__ = ["split_by_hash"]


def split_by_hash(key: str, *, train_share: float) -> Literal["train", "val"]:
    """Depends on nothing but the key: a new image never moves an old one to the other split."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
    return "train" if number < train_share * 2**64 else "val"
