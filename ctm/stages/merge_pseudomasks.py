"""Stage merge_pseudomasks: the parts of an extraction become what an undivided run writes. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctm.data.classes import check_same_classes
from ctm.data.shard_index import SplitIndex
from ctm.data.shards import ShardFolder
from ctm.pseudomasks.config import ExtractConfig
from ctm.pseudomasks.joining import join_masks
from ctm.pseudomasks.mask_shards import end_masks
from ctm.pseudomasks.parts import CHOSEN, TOKENS, order_parts
from ctm.runtime.context import Context
from ctm.runtime.digest import digest_artifact
from ctm.stage import Config, Kind, Metrics, Output, Parts, Profile, Ref, Stage

__all__ = ["STAGE"]


class MergeStageConfig(Config):
    """What merge_pseudomasks reads of params.yaml: what the parts must have been made with."""

    extract_pseudomasks: ExtractConfig


def run(
    config: MergeStageConfig, context: Context, *, shards: Path, parts: Sequence[Path], pseudomasks: Path
) -> Metrics:
    """Writes the masks of all parts, in the order of ``shards``; the same bytes and metrics as of an undivided run.

    Raises:
        ArtifactError: a part is missing, doubled or damaged, or does not belong to the others, the images or the
            parameters.
    """
    settings = config.extract_pseudomasks
    about = settings.model_dump(mode="json")
    data = ShardFolder.open(shards, kind="images")
    ordered = order_parts([ShardFolder.open(part) for part in parts], settings=about, shards=digest_artifact(shards))
    check_same_classes(shards=data.classes, **{name: folder.classes for name, folder in ordered.items()})
    first = next(iter(ordered.values())).index.about
    about |= {name: first[name] for name in (CHOSEN, TOKENS) if name in first}
    found: dict[str, tuple[SplitIndex, Metrics]] = {
        name: join_masks(pseudomasks, data.split(name), ordered, classes=data.classes, confidence=settings.confidence)
        for name in settings.splits
    }
    return end_masks(pseudomasks, found, classes=data.classes, about=about, whole=True)


STAGE = Stage(
    name="merge_pseudomasks",
    summary="Join the pseudo-masks of all parts of the images.",
    config=MergeStageConfig,
    run=run,
    inputs={"shards": Ref("preprocess", "shards"), "parts": Parts("extract_pseudomasks", "pseudomasks")},
    outputs={"pseudomasks": Output(Kind.DATASET, "artifacts/pseudomasks")},
    profile=Profile.CPU,
)
