"""Container images: which one a stage gets, and whether a name says its contents."""

from __future__ import annotations

import re

import pytest

from ctm.stage import Profile
from ctm.stages import STAGES
from pipelines.errors import PipelineError
from pipelines.images import check_image, choose_images
from tests.pipelines.conftest import IMAGE


def image(letter: str) -> str:
    return f"registry:5000/ctm@sha256:{letter * 64}"


def test_the_narrower_image_wins_over_the_wider_and_the_later_over_the_earlier():
    narrow = [f"evaluate={image('e')}", f"gpu={image('b')}"]
    chosen = choose_images([*narrow, image("a"), f"gpu={image('c')}", f"train-classifier={image('d')}"])
    expected = {name: image("c") for name, stage in STAGES.items() if stage.profile is Profile.GPU}
    expected |= {"preprocess": image("a"), "evaluate": image("e"), "train_classifier": image("d")}
    assert chosen == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("train=a", "'train' is no stage of this pipeline. Valid: cpu, gpu, preprocess"),
        ("evaluate=", "'' is no image"),
        ("a b@sha256:0", "is no image"),
        ("ctm@sha256:0123", "by tag"),
        (f"gpu={IMAGE}", "no image for preprocess: give --image REF for all stages"),
    ],
)
def test_a_wrong_image_is_named(given: str, message: str):
    with pytest.raises(PipelineError, match=re.escape(message)):
        choose_images([given])


@pytest.mark.parametrize(
    ("reference", "tag_is_fine", "digest_is_fine"),
    [
        (f"registry:5000/team/ctm@sha256:{'0' * 64}", True, True),
        (f"registry/ctm:1.2@sha256:{'0' * 64}", True, True),
        ("registry/ctm:1.2", True, False),
        ("ctm-train", True, False),
        (f"ctm@sha256:{'0' * 63}", True, False),
        ("", False, False),
        ("ctm train", False, False),
    ],
)
def test_an_image_is_named_by_digest(reference: str, tag_is_fine: bool, digest_is_fine: bool):
    assert (check_image(reference, allow_tags=True) is None) == tag_is_fine
    assert (check_image(reference, allow_tags=False) is None) == digest_is_fine
