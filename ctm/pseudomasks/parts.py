"""Extraction in parts: which samples a part has, what its index says of it, and which parts make a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import ValidationError, model_validator

from ctm.data.shards import ShardFolder
from ctm.errors import ArtifactError
from ctm.runtime.context import Part
from ctm.stage import Config

__all__ = ["CHOSEN", "TOKENS", "PartRecord", "check_settings", "order_parts", "share_of"]

CHOSEN = "chosen"
"""What the index, and the metrics, say with strategy ``auto``: the recipe, and the scores that it was chosen by."""

TOKENS = "tokens_used"
"""What the index says with ``tokens: candidates``: for each split which tokens its masks were made from, and how much
the two ways differ."""

AGAIN = "run extract-pseudomasks for every part again, from the same inputs and with the same parameters"


class PartRecord(Config):
    """What the index of a part says beside the settings, as ``about.part``; a whole has none."""

    number: int
    """Which part, counted from 1."""
    count: int
    """Of how many."""
    shards: str
    """Digest of the images that the masks were made for."""
    pruned: str
    """Digest of the classifier that made them."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"there is no part {self.number} of {self.count}")
        return self

    @classmethod
    def of(cls, folder: ShardFolder) -> Self | None:
        """The record in the index of ``folder``; None if it says that it is a whole.

        Raises:
            ArtifactError: what the index says is none.
        """
        values = folder.index.about.get("part")
        try:
            return None if values is None else cls.model_validate(values)
        except ValidationError as error:
            raise ArtifactError(f"{folder.path}: its index names no part that can be read; {AGAIN}") from error


def share_of(part: Part, *, samples: int, batch_size: int) -> range:
    """The samples of a part: whole batches, in order, the numbers of batches as equal as can be.

    The parts of one split share no sample and leave none out. Since a part begins where a batch begins, its batches
    are those of an undivided run. With more parts than batches some are empty.

    >>> [share_of(Part(k, 3), samples=10, batch_size=4) for k in (1, 2, 3)]
    [range(0, 4), range(4, 8), range(8, 10)]
    """
    batches = -(-samples // batch_size)
    first, last = ((part.number - less) * batches // part.count for less in (1, 0))
    return range(min(first * batch_size, samples), min(last * batch_size, samples))


def order_parts(folders: Sequence[ShardFolder], *, settings: Mapping[str, Any], shards: str) -> dict[str, ShardFolder]:
    """Parts by their names in messages, in the order in which they make the whole, however they are given.

    Args:
        folders: the parts, or the one whole of an extraction that was not divided.
        settings: the section ``extract_pseudomasks`` of the parameters, as JSON.
        shards: digest of the images.

    Raises:
        ArtifactError: a part is missing or doubled, or was made from other images, by another classifier or with other
            settings than the rest.
    """
    if not folders:
        raise ArtifactError("no part of the pseudo-masks is given: name each of them with --parts")
    for folder in folders:
        check_settings(folder, settings)
    records = {folder.path: PartRecord.of(folder) for folder in folders}
    if len(folders) == 1 and records[folders[0].path] is None:
        return {str(folders[0].path): folders[0]}
    found = [(record, folder) for folder in folders if (record := _record(folder, shards=shards))]
    found.sort(key=lambda pair: pair[0].number)
    _check_complete(found)
    return {f"part {record.number}/{record.count} {folder.path}": folder for record, folder in found}


def check_settings(folder: ShardFolder, settings: Mapping[str, Any]) -> None:
    """Checks that pseudo-masks were made with these settings of extract_pseudomasks, as JSON.

    Raises:
        ArtifactError: they were not, or the folder holds something else.
    """
    about = {name: value for name, value in folder.index.about.items() if name not in ("part", CHOSEN, TOKENS)}
    if folder.index.kind != "masks":
        raise ArtifactError(f"{folder.path} holds {folder.index.kind}, no pseudo-masks: give the parts as --parts")
    differing = [name for name in {**settings, **about} if about.get(name) != settings.get(name)]
    if differing:
        values = ", ".join(f"{name} {about.get(name)}, now {settings.get(name)}" for name in differing)
        raise ArtifactError(f"{folder.path} was made with other settings of extract_pseudomasks ({values}); {AGAIN}")
    if (CHOSEN in folder.index.about) != (settings.get("strategy") == "auto"):
        raise ArtifactError(f"{folder.path}: its index does not fit the strategy {settings.get('strategy')}; {AGAIN}")
    if (TOKENS in folder.index.about) != (settings.get("tokens") == "candidates"):
        raise ArtifactError(f"{folder.path}: its index does not fit tokens {settings.get('tokens')}; {AGAIN}")


def _record(folder: ShardFolder, *, shards: str) -> PartRecord:
    record = PartRecord.of(folder)
    if record is None:
        raise ArtifactError(f"{folder.path} is a whole and no part, but is not the only one given; {AGAIN}")
    if record.shards != shards:
        raise ArtifactError(f"{folder.path} was made from other images than those of --shards; {AGAIN}")
    return record


def _check_complete(found: Sequence[tuple[PartRecord, ShardFolder]]) -> None:
    """Checks that parts of one extraction are there, each once."""
    first = found[0][0]
    for record, folder in found:
        if record.count != first.count:
            raise ArtifactError(
                f"{folder.path} is part {record.number} of {record.count}, {found[0][1].path} one of {first.count}: "
                f"they come from different runs; {AGAIN}"
            )
        if record.pruned != first.pruned:
            raise ArtifactError(f"{folder.path} and {found[0][1].path} come from different classifiers; {AGAIN}")
        if _recipe(folder) != _recipe(found[0][1]):
            raise ArtifactError(
                f"{folder.path} chose {_recipe(folder)} and {found[0][1].path} {_recipe(found[0][1])}: their scores "
                "are all but equal. Set strategy, assignment and refinement of extract_pseudomasks to one of the two, "
                "and run extract-pseudomasks for every part again"
            )
        if _tokens(folder) != _tokens(found[0][1]):
            raise ArtifactError(
                f"{folder.path} was made from the tokens {_tokens(folder)} and {found[0][1].path} from "
                f"{_tokens(found[0][1])}: their difference is all but the tolerance. Set extract_pseudomasks.tokens to "
                "all, or tokens_tolerance to another value, and run extract-pseudomasks for every part again"
            )
    times = Counter(record.number for record, _ in found)
    doubled = [str(folder.path) for record, folder in found if times[record.number] > 1]
    if doubled:
        raise ArtifactError(f"the same part of the pseudo-masks is given twice ({', '.join(doubled)}): give each once")
    missing = [str(number) for number in range(1, first.count + 1) if number not in times]
    if missing:
        raise ArtifactError(
            f"of the {first.count} parts of the pseudo-masks, {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: name each part with --parts"
        )


def _recipe(folder: ShardFolder) -> object:
    """What the strategy auto chose; its scores may differ in their last digits from machine to machine."""
    return folder.index.about.get(CHOSEN, {}).get("recipe")


def _tokens(folder: ShardFolder) -> dict[str, object]:
    """Which tokens the masks of each split were made from, where that was found out."""
    return {split: choice["used"] for split, choice in folder.index.about.get(TOKENS, {}).items()}
