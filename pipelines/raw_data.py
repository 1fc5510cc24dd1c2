"""The raw data of a run: where pods find them, what names their contents, and whether they are kept and new."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ctm.runtime.storage import is_remote, listing_digest, open_tree
from pipelines.errors import PipelineError
from pipelines.working_tree import dvc, dvc_error

__all__ = [
    "RECORDED",
    "check_pushed",
    "cluster_path",
    "dvc_file",
    "has_changed",
    "raw_data_digest",
    "raw_data_digests",
]

logger = logging.getLogger("ctm.pipelines.raw_data")  # below `ctm`, whose log the command line shows

RECORDED = (Path("models/preprocess.manifest.json"), Path("models/evaluate.manifest.json"))
"""The manifests that `record` writes."""


def cluster_path(root: str, given: str | None) -> str:
    """Where the pods read the raw data: ``--raw`` where it is given, else ``dataset.root``.

    Raises:
        PipelineError: it is a place that only this machine has.
    """
    if given is None and not is_remote(root):
        raise PipelineError(
            f"dataset.root {root} is a path of this machine, which the cluster cannot read: give --raw "
            "s3://bucket/prefix, or --raw with the absolute path at which its pods see the data."
        )
    raw = given or root
    if not is_remote(raw) and not raw.startswith("/"):
        raise PipelineError(
            f"--raw {raw}: expected s3://bucket/prefix or the absolute path at which pods see the data."
        )
    return raw


def raw_data_digest(raw: str, root: str) -> str:
    """What names the contents of the raw data, so that a run on other data is never served from the cache.

    In S3 that is a digest of names, sizes and ETags. Data that pods find at a path of their own are known by what this
    machine has at ``dataset.root``: the hash in its .dvc file, or else the digest of the folder's names and sizes.

    Raises:
        PipelineError: this machine knows nothing of the data.
        StorageError: the place cannot be listed.
    """
    if is_remote(raw):
        return listing_digest(open_tree(raw), stamps=True)
    if digests := raw_data_digests(root):
        return digests[0]
    raise PipelineError(
        f"nothing is known of the data in {raw}: dataset.root {root} is neither a folder here nor under DVC. Give "
        "--raw-hash with a text that changes whenever the data do, such as their version."
    )


def raw_data_digests(place: str) -> list[str]:
    """Every digest that names the data at a place, the most exact one first; none for data that are not here."""
    if is_remote(place):
        tree = open_tree(place)
        return [listing_digest(tree, stamps=True), listing_digest(tree)]
    known = [str(out["md5"]) for out in _dvc_outs(place) if out.get("md5")]
    return known + ([listing_digest(open_tree(place))] if Path(place).is_dir() else [])


def has_changed(root: str, recorded: Iterable[Path]) -> bool:
    """Whether the data at ``root`` are others than those of a recorded run; true where nothing is recorded.

    What counts is the digest that the run was submitted with, or else the one of the files that it found.

    Args:
        root: a folder or ``s3://bucket/prefix``.
        recorded: manifests of the run; those that are not there are left out.

    Raises:
        PipelineError: nothing is known of the data here, or a manifest cannot be read.
        StorageError: the place cannot be listed.
    """
    before = {digest for file in recorded if file.is_file() for digest in _digests(file)}
    if not before:
        return True
    now = raw_data_digests(root)
    if not now:
        raise PipelineError(f"nothing is known of the data in {root}: there is no such folder, and no {root}.dvc.")
    return not before & set(now)


def check_pushed(root: str) -> None:
    """Checks that raw data under DVC are as they were added, and are in the remote; other data pass.

    Raises:
        PipelineError: they are not, or DVC cannot tell.
    """
    file = None if is_remote(root) else dvc_file(root)
    if file is None:
        return
    logger.info("asking DVC's remote for %s", root)
    allow = "or give --allow-unpushed."
    if changed := _dvc_status(file):
        raise PipelineError(f"{root} is not what {file} says ({changed}): `dvc add {file.with_suffix('')}`, {allow}")
    if missing := _dvc_status(file, "--cloud"):
        raise PipelineError(f"{root} is not in DVC's remote ({missing}): `dvc push {file}`, {allow}")


def dvc_file(root: str) -> Path | None:
    """The .dvc file that tracks a path, or a folder that it lies in."""
    path = Path(root)
    places = [path, *path.parents]
    files = [place.with_name(f"{place.name}.dvc") for place in places if place.name not in ("", "..")]
    return next((file for file in files if file.is_file()), None)


def _digests(file: Path) -> list[str]:
    """The digests of the raw data that a manifest names."""
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        label = manifest.get("labels", {}).get("raw_data")
        listing = manifest.get("inputs", {}).get("raw", {}).get("sha256")
    except (ValueError, AttributeError) as error:
        raise PipelineError(f"{file} is no manifest: {error}") from None
    # The listing knows names and sizes only: beside a label it would hide that the contents are others.
    return [digest for digest in [label or listing] if digest]


def _dvc_status(file: Path, *options: str) -> str:
    """What differs, in words; empty if nothing does."""
    done = dvc("status", "--json", *options, str(file))
    if done.returncode:
        raise PipelineError(
            f"DVC cannot tell whether {file.with_suffix('')} is in its remote: {dvc_error(done.stderr)}. Set one up "
            "with `dvc remote add -d NAME URL` and `dvc push`, or give --allow-unpushed."
        )
    found: dict[str, Any] = json.loads(done.stdout)
    if not options:
        found = {name: state for name, state in found.items() if "deleted" not in str(state)}  # it need not be here
    return ", ".join(f"{name}: {_state(state)}" for name, state in list(found.items())[:3])


def _state(state: Any) -> str:
    """A state of DVC's JSON without its brackets."""
    return state if isinstance(state, str) else re.sub(r"[\[\]{}\"]", "", json.dumps(state))


def _dvc_outs(root: str) -> list[Mapping[str, Any]]:
    """What the .dvc file beside the data says of them."""
    file = Path(f"{Path(root)}.dvc")
    if not file.is_file():
        return []
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    return list((document or {}).get("outs") or [])
