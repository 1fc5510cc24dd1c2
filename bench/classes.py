"""Rows of the table: what many classes cost, and what the candidates' tokens and the diagonal head save of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from bench.models import LAST_BLOCKS, forward, make_model
from bench.row import Row
from bench.sizes import Sizes
from ctm.models.class_head import make_head
from ctm.pseudomasks.candidate_tokens import candidate_maps
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.maps import class_maps

__all__ = ["SMALL", "class_rows"]

SMALL = Sizes(channels=3, image=(224, 224), patch=16, classes=1, depth=12, width=384, heads=6, batch=2)
"""ViT-S/16 on photographs."""

MANY = 150
"""Classes of ADE20K."""

SEVERAL = 8
"""Candidates of an image there, roughly the mean."""


def class_rows() -> Iterator[Row]:
    """The rows of the table, each made when the one before has been measured."""
    images = torch.randn(SMALL.batch, SMALL.channels, *SMALL.image, generator=torch.Generator().manual_seed(1))
    for classes in (21, MANY + 1):
        yield tokens_row(images, classes)
    yield head_row()
    for strategy in ("attention", "relevance"):
        yield candidates_row(images, strategy)


def tokens_row(images: Tensor, classes: int) -> Row:
    """Forward pass with so many class tokens against one, each with its dense head; the ratio is the price."""
    many, one = make_model(replace(SMALL, classes=classes)), make_model(SMALL)
    return Row(
        f"forward, ViT-S/16: {classes} class tokens ÷ 1",
        lambda: forward(many, images),
        lambda: forward(one, images),
        None,
        memory=True,
    )


def head_row() -> Row:
    """Both heads on the tokens of a batch of 16; the name tells the weights of each, in millions."""
    tokens = torch.randn(16, MANY, SMALL.width, generator=torch.Generator().manual_seed(2))
    dense, diagonal = (make_head(kind, MANY, SMALL.width).requires_grad_(False) for kind in ("dense", "diagonal"))
    weights = [sum(p.numel() for p in head.parameters()) for head in (dense, diagonal)]
    return Row(
        f"head, {MANY} classes: dense {weights[0] / 1e6:.2f} M ÷ diagonal {weights[1] / 1e6:.2f} M",
        lambda: dense(tokens),
        lambda: diagonal(tokens),
        None,
    )


def candidates_row(images: Tensor, strategy: str) -> Row:
    """Maps of a batch from all class tokens and from those of the candidates, which is not the same network."""
    model = make_model(replace(SMALL, classes=MANY)).requires_grad_(False)  # as extraction does
    candidates = torch.zeros(len(images), MANY, dtype=torch.bool)
    for b in range(len(images)):
        candidates[b, 5 * b : 5 * b + SEVERAL] = True
    config = MapConfig.model_validate({"strategy": strategy, "blocks": LAST_BLOCKS})
    return Row(
        f"{strategy}, {MANY} classes, {SEVERAL} an image: all tokens ÷ theirs",
        lambda: class_maps(model, images, candidates, config),
        lambda: candidate_maps(model, images, candidates, config),
        None,
        memory=True,
    )
