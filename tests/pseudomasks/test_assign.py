"""Assignment rules by hand: threshold, painting order, ties, fills and masks without candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ctm.data.classes import ClassTable
from ctm.pseudomasks.assign import Fill, assign_argmax, assign_paper, mask_values

NONE = 255


def maps_of(*rows: list[float]) -> Tensor:
    """Maps of one row of patches, (C, 1, width)."""
    return torch.tensor(rows)[:, None]


def paper(maps: Tensor, probabilities: list[float], fill: Fill = "ignore", *, size: Any = None) -> list:
    return assign_paper(maps, torch.tensor(probabilities), size or tuple(maps.shape[1:]), fill).tolist()


def confident(maps: Tensor, probabilities: list[float], fill: Fill = "ignore", *, size: Any = None, **options: Any):
    found = assign_argmax(maps, torch.tensor(probabilities), size or tuple(maps.shape[1:]), fill, **options)
    assert [array.dtype for array in found] == [np.uint8] * 2
    return tuple(array.tolist() for array in found)


def argmax(*arguments: Any, **options: Any) -> list:
    return confident(*arguments, **options)[0]


def test_paper_foreground_is_at_or_above_the_maps_own_mean():
    # means 2 and 1
    assert paper(maps_of([0, 1, 2, 5], [4, 0, 0, 0]), [0.9, 0.8]) == [[1, NONE, 0, 0]]


def test_paper_the_most_probable_class_is_painted_last():
    maps = maps_of([1, 1, 0, 0], [0, 1, 1, 0])
    assert paper(maps, [0.9, 0.8]) == [[0, 0, 1, NONE]]
    assert paper(maps, [0.8, 0.9]) == [[0, 1, 1, NONE]]


def test_paper_equal_probabilities_are_painted_in_token_order():
    assert paper(torch.ones(40, 1, 2), [0.5] * 40) == [[39, 39]]
    order = [0.5] * 20 + [0.7] * 20
    assert paper(torch.ones(40, 1, 2), order) == [[39, 39]]
    assert paper(torch.ones(40, 1, 2), order[::-1]) == [[19, 19]]


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.1, 1 / 3, 1e6])
def test_paper_a_constant_map_is_all_foreground_at_any_value_and_size(value):
    mask = np.array(paper(torch.full((1, 3, 5), value), [0.5], size=(37, 61)))
    assert (mask == 0).all()


def test_paper_the_tolerance_is_relative():
    # Two values a millionth of the mean apart count as equal, a thousandth does not, at any scale.
    for scale in (1e-6, 1.0, 1e6):
        near = maps_of([scale * (1 - 1e-7), scale * (1 + 1e-7)]).double()
        far = maps_of([scale * (1 - 1e-3), scale * (1 + 1e-3)]).double()
        assert paper(near, [0.5]) == [[0, 0]]
        assert paper(far, [0.5]) == [[NONE, 0]]


def test_paper_the_mean_is_taken_after_bilinear_upsampling_with_half_pixel_centres():
    # [0, 0, 9] at width 6 is [0, 0, 0, 2.25, 6.75, 9]: mean 3. At patch level the mean is 3, too; the columns tell.
    assert paper(maps_of([0.0, 0.0, 9.0]), [0.5], size=(1, 6)) == [[NONE] * 4 + [0, 0]]
    # [0, 9, 0] at width 6 is [0, 2.25, 6.75, 6.75, 2.25, 0]
    assert paper(maps_of([0.0, 9.0, 0.0]), [0.5], size=(1, 6)) == [[NONE, NONE, 0, 0, NONE, NONE]]
    # [1, 0, 0, 0, 1] at width 10: mean 0.4; corner handling by align_corners would open one column more
    assert paper(maps_of([1.0, 0, 0, 0, 1.0]), [0.5], size=(1, 10)) == [[0, 0] + [NONE] * 6 + [0, 0]]


def test_paper_fill_nearest_spreads_in_taxicab_distance():
    maps = torch.zeros(2, 3, 6)
    maps[0, 0, 0], maps[1, 2, 5] = 1, 1
    expected = [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]]
    mask = np.array(paper(maps, [0.9, 0.8], "nearest"))
    for row in range(3):
        for column in range(6):
            to_first, to_second = row + column, (2 - row) + (5 - column)
            if to_first != to_second:
                assert mask[row, column] == int(to_second < to_first) == expected[row][column]


def test_paper_fills_are_background_or_ignore():
    maps = maps_of([1, 0, 0], [0, 0, 1])
    assert paper(maps, [0.9, 0.8], "ignore") == [[0, NONE, 1]]
    assert paper(maps, [0.9, 0.8], "background") == [[0, 2, 1]]
    assert paper(maps, [0.9, 0.8], "nearest")[0][1] in (0, 1)


@pytest.mark.parametrize("fill", ["nearest", "background", "ignore"])
def test_without_a_candidate_the_whole_mask_is_255_and_nothing_is_sure(fill):
    nothing = torch.rand(0, 2, 2), torch.rand(0), (5, 7), fill
    for mask in (assign_paper(*nothing), assign_argmax(*nothing)[0]):
        assert mask.shape == (5, 7)
        assert mask.dtype == np.uint8
        assert (mask == NONE).all()
    assert not assign_argmax(*nothing)[1].any()


def test_argmax_compares_maps_scaled_to_sum_one():
    # shares [.5 .5 0 0] and [.1 .2 .3 .4]; the raw second map is larger everywhere
    maps = maps_of([1, 1, 0, 0], [10, 20, 30, 40])
    assert argmax(maps, [0.1, 0.9]) == [[0, 0, 1, 1]]


def test_argmax_a_zero_map_takes_no_pixel_beside_another():
    assert argmax(maps_of([0, 0, 0], [1, 2, 3]), [0.9, 0.1]) == [[1, 1, 1]]


def test_argmax_a_sole_candidate_takes_every_pixel_even_with_a_zero_map():
    for maps in (maps_of([0, 0, 0]), maps_of([0, 0, 5])):
        for fill in ("nearest", "ignore"):
            assert argmax(maps, [0.2], fill) == [[0, 0, 0]]


def test_argmax_of_zero_maps_alone_goes_to_the_most_probable_candidate():
    assert argmax(torch.zeros(3, 1, 2), [0.2, 0.6, 0.4], "nearest") == [[1, 1]]


def test_argmax_pixels_where_every_map_is_zero_are_filled():
    maps = maps_of([1, 0, 0, 0, 0], [0, 0, 0, 0, 1])
    assert argmax(maps, [0.5, 0.5], "ignore") == [[0, NONE, NONE, NONE, 1]]
    nearest = argmax(maps, [0.5, 0.5], "nearest")[0]
    assert (nearest[:2], nearest[3:]) == ([0, 0], [1, 1])


def test_argmax_background_is_where_every_map_scaled_to_maximum_one_is_below_the_threshold():
    # scaled to maximum 1: [1 .5 .2 0 0] and [0 0 .1 .5 1]
    maps = maps_of([10, 5, 2, 0, 0], [0, 0, 1, 5, 10])
    assert argmax(maps, [0.5, 0.5], "background", background_threshold=0.3) == [[0, 0, 2, 1, 1]]
    assert argmax(maps, [0.5, 0.5], "background", background_threshold=0.6) == [[0, 2, 2, 2, 1]]
    assert argmax(maps, [0.5, 0.5], "background", background_threshold=0.15) == [[0, 0, 0, 1, 1]]
    assert argmax(maps_of([0, 1, 4]), [0.5], "background", background_threshold=0.5) == [[1, 1, 0]]
    assert argmax(maps_of([0, 0]), [0.5], "background", background_threshold=0.5) == [[1, 1]]


def test_argmax_background_without_a_threshold_is_below_otsus():
    # scaled to maximum 1: [1 .9 .8 .1 0]; the widest gap is between .1 and .8
    assert argmax(maps_of([10, 9, 8, 1, 0]), [0.5], "background", background_threshold=None) == [[0, 0, 0, 1, 1]]
    assert argmax(maps_of([3, 3, 3]), [0.5], "background", background_threshold=None) == [[0, 0, 0]]


def test_argmax_of_normalised_maps_compares_them_as_they_are():
    maps = maps_of([1, 1, 0, 0], [10, 20, 30, 40])
    assert argmax(maps, [0.1, 0.9], normalised=True) == [[1, 1, 1, 1]]


def test_confidence_is_the_winners_share_of_the_maps_divided_by_their_sums():
    # divided by their sums: [.5 .5 0 0] and [.1 .2 .3 .4]
    maps = maps_of([1, 1, 0, 0], [10, 20, 30, 40])
    shares = [0.5 / 0.6, 0.5 / 0.7, 1, 1]
    assert confident(maps, [0.1, 0.9]) == ([[0, 0, 1, 1]], [[round(255 * share) for share in shares]])
    shares = [10 / 11, 20 / 21, 1, 1]
    expected = [[round(255 * share) for share in shares]]
    assert confident(maps, [0.1, 0.9], normalised=True) == ([[1, 1, 1, 1]], expected)


def test_confidence_of_k_equal_maps_is_one_kth():
    assert confident(torch.ones(5, 1, 2), [0.5] * 5)[1] == [[51, 51]]


def test_confidence_is_full_where_only_one_class_can_be_and_none_where_no_map_says_anything():
    assert confident(maps_of([0, 0, 5]), [0.2])[1] == [[255, 255, 255]]
    maps = maps_of([1, 0, 0], [0, 0, 1])
    assert confident(maps, [0.5, 0.5]) == ([[0, NONE, 1]], [[255, 0, 255]])
    assert confident(maps, [0.5, 0.5], "nearest")[1] == [[255, 0, 255]]
    assert confident(torch.zeros(2, 1, 2), [0.2, 0.6]) == ([[1, 1]], [[0, 0]])


def test_confidence_beside_background_grows_with_the_distance_from_the_threshold():
    options = {"fill": "background", "background_threshold": 0.3}
    mask, confidence = confident(maps_of([10, 5, 2, 0, 0], [0, 0, 1, 5, 10]), [0.5, 0.5], **options)
    assert mask == [[0, 0, 2, 1, 1]]
    assert confidence == [[255, round(255 * 0.2 / 0.7), round(255 * 0.1 / 0.3), round(255 * 0.2 / 0.7), 255]]
    only = confident(maps_of([10, 3, 2.4, 0]), [0.5], **options)
    assert only == ([[0, 0, 1, 1]], [[255, 0, 51, 255]])
    for threshold in (0.0, 0.3, None):
        assert confident(torch.zeros(1, 1, 2), [0.5], **{**options, "background_threshold": threshold})[1] == [[0, 0]]


def test_argmax_upsamples_to_a_non_square_size():
    mask = np.array(argmax(maps_of([1, 0], [0, 1]), [0.5, 0.5], size=(3, 10)))
    assert mask.shape == (3, 10)
    assert (mask[:, :5] == 0).all()
    assert (mask[:, 5:] == 1).all()


def test_tiny_maps_do_not_vanish():
    maps = maps_of([1, 0], [0, 1]) * 1e-30
    assert argmax(maps, [0.5, 0.5]) == [[0, 1]]
    assert paper(maps, [0.5, 0.5]) == [[0, 1]]


def test_mask_values_turn_places_of_candidates_into_the_data_sets_own():
    places = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    assert mask_values(places, ClassTable(("a", "b", "c", "d")), [0, 2, 3]).tolist() == [[0, 2, 3, 255]]
    with_background = ClassTable(("sky", "background", "sea", "land"), background=1)
    assert mask_values(places, with_background, [1, 2]).tolist() == [[2, 3, 1, 255]]
