"""What the tests of saved models share: how a folder can be damaged."""

from __future__ import annotations

import json
from pathlib import Path


def edit(folder: Path, **changes: object) -> None:
    """Changes the description of a saved model."""
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGES = {
    "no description": lambda folder: (folder / "model.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no json": lambda folder: (folder / "model.json").write_text("{"),
    "no object": lambda folder: (folder / "model.json").write_text("[]"),
    "no text": lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\x00"),
    "cut weights": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-100]
    ),
    "no weights file at all": lambda folder: (folder / "model.safetensors").write_bytes(b"not tensors"),
    "another version": lambda folder: edit(folder, format=99),
    "no classes": lambda folder: edit(folder, classes=None),
    "broken inputs": lambda folder: edit(folder, inputs={}),
}
"""Of any saved model."""
