"""What a run of preprocess has finished, so that one that was killed goes on there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ctm.data.findings import SplitFindings
from ctm.data.shard_writer import Finished
from ctm.data.statistics import Moments
from ctm.runtime.outputs import write_text

__all__ = ["Journal", "SplitJournal"]

logger = logging.getLogger(__name__)


class SplitJournal(BaseModel):
    """One split, as it was when its last shard was closed."""

    findings: SplitFindings = SplitFindings()
    """What had been found up to there."""
    finished: Finished = Finished()
    """The shards."""


class Journal(BaseModel):
    """All splits, as they were when the last shard was closed."""

    model_config = ConfigDict(extra="forbid")

    stamp: str
    """Digest of the raw data's listing: shards of files that have changed since are worth nothing."""
    splits: dict[str, SplitJournal] = {}
    """The splits that were begun."""
    statistics: Moments
    """Of the channels, over the samples of these shards."""

    @classmethod
    def begin(cls, stamp: str, channels: int) -> Self:
        """The journal of a run that has finished nothing."""
        return cls(stamp=stamp, statistics=Moments.of_nothing(channels))

    @classmethod
    def load(cls, path: Path, *, stamp: str) -> Self | None:
        """The journal of an interrupted run over the same raw data, or None."""
        try:
            journal = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            logger.warning("%s is damaged: beginning anew", path)
            return None
        if journal.stamp != stamp:
            logger.warning("the raw data have changed since the interrupted run: beginning anew")
            return None
        return journal

    def save(self, path: Path) -> None:
        """Writes the journal, whole or not at all."""
        write_text(path, self.model_dump_json())
