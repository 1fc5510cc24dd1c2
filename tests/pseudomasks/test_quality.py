"""Label-free scores: what they reward, what they leave out, and that they count as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctm.data.classes import IGNORE, ClassTable
from ctm.data.inputs import InputSpec
from ctm.pseudomasks.masks import PseudoMask
from ctm.pseudomasks.quality import (
    Regions,
    agreement,
    best_recipe,
    combined,
    consistency,
    neutral_values,
    separation,
)

CLASSES = ClassTable(("background", "left", "right", "nowhere"), background=0)
LEFT, RIGHT = 1, 2


class Halves(nn.Module):
    """Knows the left half by the mean of channel 0, and the right half by that of channel 1."""

    def __init__(self) -> None:
        super().__init__()
        self.class_tokens = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        seen = (images.mean(dim=(2, 3)) - 0.25) * 40  # the half's mean is 0.5 where it is seen, else 0
        return torch.cat([seen, torch.full((len(images), 1), -10.0)], dim=1)


def image() -> Tensor:
    both = torch.zeros(2, 8, 8)
    both[0, :, :4] = both[1, :, 4:] = 1
    return both


def regions(mask: NDArray[np.integer[Any]], *, candidates: tuple[int, ...] = (0, 1)) -> Regions:
    chosen = np.zeros(3, dtype=bool)
    chosen[list(candidates)] = True
    return Regions(mask.astype(np.uint8), chosen)


def halves() -> NDArray[np.uint8]:
    mask = np.full((8, 8), LEFT, dtype=np.uint8)
    mask[:, 4:] = RIGHT
    return mask


def score(*found: Regions, batch_size: int = 3) -> float | None:
    samples = [(image(), one) for one in found]
    return consistency(Halves(), samples, classes=CLASSES, hidden=torch.zeros(2), batch_size=batch_size)


def test_right_regions_score_one_and_swapped_ones_minus_one():
    assert score(regions(halves())) == pytest.approx(1, abs=1e-3)
    assert score(regions(3 - halves())) == pytest.approx(-1, abs=1e-3)


def test_a_class_that_takes_all_gains_nothing_over_one_that_gets_nothing():
    assert score(regions(np.full((8, 8), LEFT))) == pytest.approx(0, abs=1e-3)
    assert score(regions(np.full((8, 8), IGNORE))) == pytest.approx(-1, abs=1e-3)


def test_noise_lies_between():
    noise = np.random.default_rng(0).integers(LEFT, RIGHT + 1, size=(8, 8))
    assert -0.5 < score(regions(noise)) < 0.5


def test_an_image_with_a_single_candidate_says_nothing():
    single = regions(np.full((8, 8), LEFT), candidates=(0,))
    assert score(single) is None
    assert score() is None
    assert score(single, regions(3 - halves())) == score(regions(3 - halves()))


def test_a_candidate_that_is_not_there_is_held_against_nobody():
    three = regions(halves(), candidates=(0, 1, 2))
    assert score(three) == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_score_does_not_depend_on_the_batches(batch_size):
    found = [regions(halves()), regions(3 - halves()), regions(halves(), candidates=(0, 1, 2))]
    assert score(*found, batch_size=batch_size) == pytest.approx(score(*found), abs=1e-9)


def test_agreement_is_the_mean_intersection_over_union_with_the_others():
    whole = np.full((8, 8), LEFT)
    found = agreement({"a": [regions(halves())], "b": [regions(halves())], "c": [regions(whole)]})
    with_c = (0.5 + 0) / 2  # left: 32 of 64 pixels; right: none of 32
    assert found == {"a": (1 + with_c) / 2, "b": (1 + with_c) / 2, "c": with_c}


def test_undecided_pixels_agree_with_nothing():
    blank = np.full((8, 8), IGNORE)
    half = np.where(halves() == LEFT, LEFT, IGNORE)
    assert agreement({"a": [regions(half)], "b": [regions(np.full((8, 8), LEFT))]}) == {"a": 0.5, "b": 0.5}
    assert agreement({"a": [regions(blank)], "b": [regions(blank)]}) == {"a": None, "b": None}
    assert agreement({"a": [regions(blank), regions(half)], "b": [regions(blank), regions(half)]}) == {"a": 1, "b": 1}


def separated(*found: Regions, classes: ClassTable = CLASSES) -> float | None:
    return separation([(image(), one) for one in found], classes=classes)


def test_regions_that_follow_the_image_explain_all_of_it_and_others_nothing():
    across = np.full((8, 8), LEFT, dtype=np.uint8)
    across[4:] = RIGHT
    assert separated(regions(halves())) == pytest.approx(1)
    assert separated(regions(3 - halves())) == pytest.approx(1)
    assert separated(regions(across)) == pytest.approx(0)
    assert separated(regions(np.full((8, 8), IGNORE))) == pytest.approx(0)
    assert separated(regions(np.where(halves() == LEFT, LEFT, IGNORE))) == pytest.approx(1)


def test_an_image_that_one_value_fills_says_nothing_of_separation():
    single = regions(np.full((8, 8), LEFT), candidates=(0,))
    plain = ClassTable(("left", "right", "nowhere"))
    assert separated(single, classes=plain) is None
    assert separated(single) == pytest.approx(0)  # the background could have been painted
    assert separated() is None
    flat = separation([(torch.ones(2, 8, 8), regions(halves()))], classes=CLASSES)
    assert flat == 0


def test_a_recipe_alone_has_nobody_to_agree_with():
    assert agreement({"a": [regions(halves())]}) == {"a": None}


def test_the_rule_is_the_mean_of_what_is_known():
    assert combined(0.5, 0.25) == 0.375
    assert combined(None, 0.25) == 0.25
    assert combined(0.5, None) == 0.5
    assert combined(None, None) is None


def test_the_best_is_the_first_of_the_highest():
    def scores(**values: float | None) -> dict[str, Any]:
        return {name: {"score": value} for name, value in values.items()}

    assert best_recipe(scores(a=0.1, b=0.3, c=0.3)) == "b"
    assert best_recipe(scores(a=None, b=-0.9)) == "b"
    assert best_recipe(scores(a=None, b=None)) == "a"


def test_hidden_pixels_hold_the_mean_of_their_channel():
    standardised = InputSpec((8, 8), 2, 1.0, mean=(0.1, 0.2), std=(1.0, 1.0))
    assert neutral_values(standardised, [torch.ones(2, 8, 8)]).tolist() == [0, 0]
    images = [torch.ones(2, 8, 8), torch.zeros(2, 8, 8)]
    assert neutral_values(InputSpec((8, 8), 2, 1.0), images).tolist() == [0.5, 0.5]
    assert neutral_values(InputSpec((8, 8), 2, 1.0), []).tolist() == [0, 0]


def test_regions_are_the_mask_at_the_models_size():
    found = PseudoMask(
        index=0,
        mask=halves(),
        maps=np.zeros((3, 2, 2), dtype=np.float32),
        candidates=np.array([True, True, False]),
        logits=np.zeros(3, dtype=np.float32),
        confidence=None,
    )
    small = Regions.of(found, InputSpec((2, 4), 2, 1.0))
    assert small.mask.tolist() == [[LEFT, LEFT, RIGHT, RIGHT]] * 2
    assert small.candidates.tolist() == [True, True, False]
