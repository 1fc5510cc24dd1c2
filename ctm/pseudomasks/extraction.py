"""An extraction: what is decided before it, the masks of a share of all splits, and several shares joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctm.data.inputs import InputSpec
from ctm.data.sample import encode_mask
from ctm.data.shard_index import INDEX, SplitIndex
from ctm.data.shards import ShardFolder, Split
from ctm.errors import ArtifactError
from ctm.models.class_token_vit import ClassTokenViT
from ctm.pseudomasks.ahead import helpers, mapped
from ctm.pseudomasks.auto import choose
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.joining import join_masks
from ctm.pseudomasks.mask_shards import EncodedMask, end_masks, write_masks
from ctm.pseudomasks.masks import check_fill, decide
from ctm.pseudomasks.parts import CHOSEN, TOKENS, share_of
from ctm.pseudomasks.readings import Reading, read_split, together
from ctm.pseudomasks.recipes import recipe_config
from ctm.pseudomasks.token_choice import choose_tokens
from ctm.runtime.context import WHOLE, Part
from ctm.runtime.outputs import remove
from ctm.stage import Metrics

__all__ = ["Extraction", "Plan"]


@dataclass(frozen=True)
class Plan:
    """What is decided before the first mask, by the same images whatever share of them a run has.

    Attributes:
        settings: the extraction; of strategy auto with the recipe that was chosen.
        of_split: the settings for each split, which may differ in the tokens that are used.
        about: what the index says of the masks, and of the choices: ``chosen``, and by split ``tokens``.
    """

    settings: ExtractConfig
    of_split: dict[str, ExtractConfig]
    about: dict[str, Any]


@dataclass(frozen=True)
class Extraction:
    """Images and the classifier that their masks come from."""

    data: ShardFolder
    model: ClassTokenViT
    inputs: InputSpec
    device: torch.device
    workers: int

    def plan(self, config: ExtractConfig) -> Plan:
        """Chooses the recipe of strategy auto, and whether the candidates' tokens suffice, where that is asked for.

        Raises:
            ParamsError: the fill rule does not fit the classes, or the model has fewer blocks than are to be read.
        """
        check_fill(config, self.data.classes)
        about, settings = config.model_dump(mode="json"), config
        work: dict[str, Any] = {"classes": self.data.classes, "device": self.device, "workers": self.workers}
        if config.strategy == "auto":
            recipe, scores = choose(self.model, self.data.split("train"), self.inputs, config=config, **work)
            settings = recipe_config(recipe, config)
            about[CHOSEN] = {"recipe": recipe, "scores": scores}
        of_split: dict[str, ExtractConfig] = dict.fromkeys(settings.splits, settings)
        if settings.tokens == "candidates":
            for name in settings.splits:
                split = self.data.split(name)
                of_split[name], used = choose_tokens(self.model, split, self.inputs, config=settings, **work)
                about.setdefault(TOKENS, {})[name] = used
        return Plan(settings, of_split, about)

    def write(self, folder: Path, plan: Plan, part: Part) -> Metrics:
        """Writes the masks of one part of every split."""
        found = {}
        for name, config in plan.of_split.items():
            split = self._share(name, plan, part)
            found[name] = write_masks(folder, split, self._masks(split, config), classes=self.data.classes)
        return self._end(folder, plan, part, found)

    def join(self, folder: Path, plan: Plan, part: Part, shares: Sequence[Path]) -> Metrics:
        """Joins the shares of a part, which are removed then, to what ``write`` writes of it.

        Raises:
            ArtifactError: a share is missing or damaged.
        """
        for share in shares:
            if not (share / INDEX).is_file():
                raise ArtifactError(
                    f"{share} is missing, which another process has written: processes on several machines need one "
                    "folder for outputs that all of them reach."
                )
        parts = {str(share): ShardFolder.open(share) for share in shares}
        found = {}
        for name in plan.of_split:
            split = self._share(name, plan, part)
            found[name] = join_masks(
                folder, split, parts, classes=self.data.classes, confidence=plan.settings.confidence
            )
        metrics = self._end(folder, plan, part, found)
        for share in shares:
            remove(share)
        return metrics

    def _share(self, name: str, plan: Plan, part: Part) -> Split:
        """The images of a part of a split."""
        split = self.data.split(name)
        return split.between(share_of(part, samples=len(split), batch_size=together(plan.settings)))

    def _end(self, folder: Path, plan: Plan, part: Part, found: Mapping[str, tuple[SplitIndex, Metrics]]) -> Metrics:
        return end_masks(folder, found, classes=self.data.classes, about=plan.about, whole=part == WHOLE)

    def _masks(self, split: Split, config: ExtractConfig) -> Iterator[EncodedMask]:
        """The masks of a split, in order; threads finish those of one batch while the model reads the next."""
        readings = read_split(
            self.model,
            split,
            self.inputs,
            config=config,
            device=self.device,
            workers=self.workers,
            description=f"pseudo-masks of {split.name}",
        )
        finish = partial(_finished, extraction=self, config=config)
        return mapped(finish, readings, threads=helpers(), ahead=config.batch_size)


def _finished(reading: Reading, *, extraction: Extraction, config: ExtractConfig) -> EncodedMask:
    """What follows on the model for one image."""
    found = decide(reading, classes=extraction.data.classes, config=config)
    return EncodedMask(
        index=found.index,
        png=encode_mask(found.mask),
        mask=found.mask,
        candidates=found.candidates,
        logits=found.logits,
        confidence=None if found.confidence is None else encode_mask(found.confidence),
    )
