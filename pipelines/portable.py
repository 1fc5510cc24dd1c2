"""Texts that are kept or published, without the folders that only this machine has."""

from __future__ import annotations

import re

__all__ = ["portable"]


def portable(text: str) -> str:
    """A parameter, an override, a word of a command or an error, each absolute path cut to its last name.

    >>> portable("model.pretrained=/home/me/weights.safetensors")
    'model.pretrained=…/weights.safetensors'
    """
    return re.sub(r"""(?<![^\s=,\[('"])/(?:[^\s/,\])'"]+/)*(?=[^\s/,\])'"])""", "…/", text)
