"""Container images: which each stage runs in, as given with ``--image``, and whether a name says its contents."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ctm.stage import Profile
from ctm.stages import STAGES
from pipelines.errors import PipelineError

__all__ = ["check_image", "choose_images"]

DIGEST = re.compile(r"\S+@sha256:[0-9a-f]{64}")


def choose_images(given: Iterable[str], *, allow_tags: bool = False) -> dict[str, str]:
    """The image of every stage.

    Args:
        given: ``REF`` for all stages, ``cpu=REF`` or ``gpu=REF`` for those of a profile, ``STAGE=REF`` for one. The
            narrower wins over the wider, and the later over the earlier of the same width.
        allow_tags: accept images that are named by tag instead of digest.

    Raises:
        PipelineError: a stage has no image, an image is named by tag, or a name is unknown.
    """
    chosen: dict[str, str] = {}
    for option in given:
        target, reference = _split(option)
        if target not in (valid := ["", *Profile, *STAGES]):
            raise PipelineError(
                f"--image {option}: {target!r} is no stage of this pipeline. Valid: {', '.join(valid[1:])}."
            )
        if problem := check_image(reference, allow_tags=allow_tags):
            raise PipelineError(f"--image {option}: {problem} (--allow-tags).")
        chosen[target] = reference
    images = {
        name: chosen[target]
        for name, stage in STAGES.items()
        for target in ("", stage.profile, name)  # the narrower comes later and wins
        if target in chosen
    }
    if missing := [name for name in STAGES if name not in images]:
        raise PipelineError(
            f"no image for {', '.join(missing)}: give --image REF for all stages, --image cpu=REF and gpu=REF, or "
            f"--image {missing[0]}=REF."
        )
    return images


def check_image(reference: str, *, allow_tags: bool) -> str | None:
    """What is wrong with the name of an image; None if nothing is.

    A tag can be moved to other contents, and Kubeflow would serve the old results from its cache.
    """
    if reference.split() != [reference]:
        return f"{reference!r} is no image; name one as registry/name@sha256:<64 digits>"
    if allow_tags or DIGEST.fullmatch(reference):
        return None
    return f"image {reference!r} is named by tag; name it by digest (…@sha256:<64 digits>) or allow tags"


def _split(option: str) -> tuple[str, str]:
    """For whom, and which image."""
    target, equals, reference = option.rpartition("=")
    return (target.strip().replace("-", "_") if equals else ""), reference.strip()
