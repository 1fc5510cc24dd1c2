"""Class maps of a batch: one strategy, read at one or several sizes, refined by affinity."""

from __future__ import annotations

import torch
from torch import Tensor

from ctm.models.attention import record_patch_affinity
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.map_config import MapConfig
from ctm.pseudomasks.strategies import read_maps
from ctm.pseudomasks.strategies.reading import Choose, ClassMaps, first_block
from ctm.pseudomasks.views import mean_maps, views_of

__all__ = ["ClassMaps", "class_maps", "propagate"]


def class_maps(
    model: ClassTokenViT, images: Tensor, candidates: Tensor | None, config: MapConfig, *, threshold: float = 0.5
) -> ClassMaps:
    """Reads the maps of a batch as configured, each size and mirror image in one forward pass.

    Predicted candidates and the logits are those of the first view, which is the images as they are unless
    ``config.scales`` leaves 1 out. Affinity is propagated in every view, along that view's own attention. The maps of
    one view are given as they are; those of several are averaged by ``mean_maps``.

    Args:
        model: gated or pruned classifier in evaluation mode; freezing its parameters saves memory.
        images: (B, channels, H, W), normalised, of the model's own size, not made in inference mode.
        candidates: (B, C) bool, or None: the classes that the model predicts.
        config: strategy, blocks, rows, scales, flip and refinement, of which only affinity belongs here.
        threshold: probability above which a class counts as predicted.

    Raises:
        ModelError: the strategy reads a patch head that the model does not have.
        ValueError: the model is in training mode, or has fewer blocks than asked for.
    """
    if model.training:
        raise ValueError("class maps are read in evaluation mode: call model.eval() first")

    def choose(logits: Tensor) -> Tensor:
        return logits.sigmoid() > threshold if candidates is None else candidates.to(logits.device)

    size = (images.shape[-2], images.shape[-1])
    first, *others = views_of(size, scales=config.scales, flip=config.flip, patch=model.patch_size)
    found = _read(model, first.apply(images), choose, config)
    if not others:
        return found
    maps = [first.undo(found.maps)]
    for view in others:
        maps.append(view.undo(_read(model, view.apply(images), lambda _: found.candidates, config).maps))
    return ClassMaps(mean_maps(maps), found.logits, found.candidates)


def _read(model: ClassTokenViT, images: Tensor, choose: Choose, config: MapConfig) -> ClassMaps:
    """Maps of one view, refined by affinity where that is asked for."""
    if "affinity" not in config.refinement:
        return read_maps(model, images, choose, config)
    patches = model.patches_of(model.grid_of(images))
    with record_patch_affinity(model.attentions[first_block(model, config.blocks) :], patches) as affinity:
        found = read_maps(model, images, choose, config)
    if affinity.total is None:  # no block has a head left
        return found
    return ClassMaps(propagate(found.maps, affinity.total), found.logits, found.candidates)


def propagate(maps: Tensor, affinity: Tensor) -> Tensor:
    """Gives each patch the average of the patches it attends to.

    Args:
        maps: (B, C, h0, w0).
        affinity: patch-to-patch attention, (B, P, P) with P = h0 · w0, of any scale: each row is normalised to sum 1.
            A row of zeros leaves its patch as it is.

    Returns:
        Maps of the same shape.
    """
    total = affinity.sum(dim=-1, keepdim=True)  # (B, P, 1)
    flat = maps.flatten(2).transpose(1, 2)  # (B, P, C)
    refined = torch.where(total > 0, affinity @ flat / total, flat)
    return refined.transpose(1, 2).reshape(maps.shape)
