"""Quality of masks without any truth: does the classifier find each class in its region, and do regions differ?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.inputs import InputSpec
from ctm.data.loaders import ShardDataset
from ctm.data.shards import Split
from ctm.data.transforms import mask_to_target
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.masks import PseudoMask
from ctm.stage import Metrics

__all__ = [
    "Regions",
    "agreement",
    "best_recipe",
    "combined",
    "consistency",
    "label_free_scores",
    "neutral_values",
    "separation",
]


@dataclass(frozen=True)
class Regions:
    """What each candidate class of one image got, at the size of the classifier's input.

    Attributes:
        mask: (H, W) mask values, 255 where undecided.
        candidates: (C,) classes that could be painted.
    """

    mask: NDArray[np.uint8]
    candidates: NDArray[np.bool_]

    @classmethod
    def of(cls, found: PseudoMask, inputs: InputSpec) -> Self:
        """The regions of a pseudo-mask."""
        mask = mask_to_target(found.mask, inputs.image_size)
        return cls(mask.numpy().astype(np.uint8), found.candidates)


def label_free_scores(
    regions: Mapping[str, Sequence[Regions]],
    indices: Sequence[int],
    *,
    model: ClassTokenViT,
    split: Split,
    inputs: InputSpec,
    classes: ClassTable,
    batch_size: int,
    device: torch.device,
) -> dict[str, Metrics]:
    """Scores of several recipes on the same images, none of which looks at a true mask.

    Args:
        regions: what each recipe makes of the images.
        indices: of the images in ``split``.
        model: classifier that the masks are made from.
        split: the images.
        inputs: what the model takes.
        classes: what the mask values mean.
        batch_size: images per forward pass.
        device: where the model runs.

    Returns:
        For each recipe ``score``, ``consistency``, ``separation`` and ``agreement``; None where nothing says it.
    """
    dataset = ShardDataset(split, inputs)

    def images() -> Iterator[Tensor]:
        return (dataset[index]["image"] for index in indices)

    hidden = neutral_values(inputs, images())
    model = model.to(device).eval()
    agreed = agreement(regions)
    scores: dict[str, Metrics] = {}
    for recipe, found in regions.items():
        consistent = consistency(
            model, zip(images(), found, strict=True), classes=classes, hidden=hidden, batch_size=batch_size
        )
        separated = separation(zip(images(), found, strict=True), classes=classes)
        scores[recipe] = {
            "score": combined(consistent, separated),
            "consistency": consistent,
            "separation": separated,
            "agreement": agreed[recipe],
        }
    return scores


def combined(consistent: float | None, separated: float | None) -> float | None:
    """The one number that recipes are ranked by: the mean of consistency and separation, as far as they are there.

    Consistency tells strategies apart, and separation their refinements, which the classifier hardly notices. Agreement
    is left out: recipes that are wrong alike agree.
    """
    known = [part for part in (consistent, separated) if part is not None]
    return sum(known) / len(known) if known else None


def best_recipe(scores: Mapping[str, Metrics]) -> str:
    """The recipe with the highest score; of equals, and where there is no score at all, the first."""
    return max(scores, key=lambda recipe: -np.inf if (score := scores[recipe]["score"]) is None else score)


@torch.inference_mode()
def consistency(
    model: ClassTokenViT,
    samples: Iterable[tuple[Tensor, Regions]],
    *,
    classes: ClassTable,
    hidden: Tensor,
    batch_size: int,
) -> float | None:
    """Mean over images and candidate classes of p_c(only c's region shown) − p_c(c's region hidden), −1..1.

    Insertion and deletion (Petsiuk et al., "RISE", BMVC 2018) with a whole region at once. A class that takes all of
    an image scores well at the cost of the classes that it leaves nothing; an image with a single candidate has no
    such counterweight, says nothing, and is left out.

    Args:
        model: classifier in evaluation mode.
        samples: the model's input (channels, H, W) of each image, and its regions.
        classes: what the mask values mean.
        hidden: value of each channel where an image is hidden, (channels,).
        batch_size: altered images per forward pass.

    Returns:
        None if no image has two candidates.
    """
    device = model.class_tokens.device
    pairs, total = 0, 0.0
    altered = _altered(samples, classes, hidden)
    while batch := list(islice(altered, batch_size)):
        images, tokens, signs = zip(*batch, strict=True)
        probabilities = model(torch.stack(images).to(device)).double().sigmoid().cpu()
        chosen = probabilities[torch.arange(len(batch)), torch.tensor(tokens)]
        total += float(chosen @ torch.tensor(signs, dtype=torch.float64))
        pairs += sum(sign > 0 for sign in signs)
    return total / pairs if pairs else None


def separation(samples: Iterable[tuple[Tensor, Regions]], *, classes: ClassTable) -> float | None:
    """Mean over images of the share of their pixels' variance that lies between the mask's regions, 0..1.

    The correlation ratio, of which Otsu's threshold is the case of two regions (Otsu, IEEE Trans. SMC 1979; Chan and
    Vese, "Active contours without edges", IEEE TIP 2001): regions whose borders follow the image leave little variance
    inside. The classifier has no say in it, so that alone it would reward any grouping by colour. Undecided pixels are
    a region, too. Images whose mask could hold one value alone are left out.

    Args:
        samples: the model's input (channels, H, W) of each image, and its regions.
        classes: what the mask values mean.

    Returns:
        None if there is no image with two possible values.
    """
    background = int(classes.background is not None)
    found = [
        _between(image, regions.mask)
        for image, regions in samples
        if np.count_nonzero(regions.candidates) + background > 1
    ]
    return sum(found) / len(found) if found else None


def agreement(regions: Mapping[str, Sequence[Regions]]) -> dict[str, float | None]:
    """For each recipe the mean over images of the mean intersection over union with each other recipe's mask, 0..1.

    Two masks overlap by the mean over the mask values that either of them has, 255 apart. None where a recipe has no
    other to agree with, or where no mask has a value.
    """
    found: dict[str, list[float]] = {recipe: [] for recipe in regions}
    for masks in zip(*regions.values(), strict=True):
        overlaps: dict[str, list[float]] = {recipe: [] for recipe in regions}
        for (one, left), (other, right) in combinations(zip(regions, masks, strict=True), 2):
            if (overlap := _overlap(left.mask, right.mask)) is not None:
                overlaps[one].append(overlap)
                overlaps[other].append(overlap)
        for recipe, values in overlaps.items():
            found[recipe] += [sum(values) / len(values)] if values else []
    return {recipe: sum(values) / len(values) if values else None for recipe, values in found.items()}


def neutral_values(inputs: InputSpec, images: Iterable[Tensor]) -> Tensor:
    """What a hidden pixel holds, (channels,): the channel's mean, over the data set where the inputs are standardised.

    A blurred image would not do: it keeps the colours, and these may be all that tells classes apart (land cover).

    Args:
        inputs: what the model takes.
        images: inputs of the model, (channels, H, W), from which the mean is taken if ``inputs`` does not know it.
    """
    if inputs.mean is not None:
        return torch.zeros(inputs.channels)
    means = [image.mean(dim=(1, 2)) for image in images]
    return torch.stack(means).mean(dim=0) if means else torch.zeros(inputs.channels)


def _altered(
    samples: Iterable[tuple[Tensor, Regions]], classes: ClassTable, hidden: Tensor
) -> Iterator[tuple[Tensor, int, float]]:
    """Each image with all but one candidate's region hidden (sign +1), and with that region hidden (sign −1)."""
    blank = hidden[:, None, None]
    for image, regions in samples:
        candidates = np.flatnonzero(regions.candidates).tolist()
        if len(candidates) < 2:
            continue
        for token in candidates:
            region = torch.from_numpy(regions.mask == classes.tokens[token])
            yield torch.where(region, image, blank), token, 1.0
            yield torch.where(region, blank, image), token, -1.0


def _between(image: Tensor, mask: NDArray[np.uint8]) -> float:
    """The share of the variance of an image, (channels, H, W), between the values of its mask; 0 for a flat image."""
    pixels = image.double()
    total = float(pixels.var(dim=(1, 2), unbiased=False).sum())
    inside = 0.0
    for value in np.unique(mask):
        chosen = pixels[:, torch.from_numpy(mask == value)]  # (channels, n)
        inside += float(chosen.var(dim=1, unbiased=False).sum()) * chosen.shape[1] / mask.size
    return 1 - inside / total if total > 0 else 0.0


def _overlap(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> float | None:
    """Mean intersection over union of the values that either mask has; None if there is none."""
    values = np.union1d(left, right)
    shares = [
        np.count_nonzero((left == value) & (right == value)) / np.count_nonzero((left == value) | (right == value))
        for value in values[values != IGNORE]
    ]
    return float(np.mean(shares)) if shares else None
