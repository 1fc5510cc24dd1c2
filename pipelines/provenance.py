"""What a run is made from: the revision in git, the raw data under DVC or in S3, and whether both are kept safe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ctm.runtime.storage import is_remote, listing_digest, open_tree
from pipelines.errors import PipelineError

__all__ = [
    "Revision",
    "check_pushed",
    "cluster_path",
    "dvc",
    "dvc_file",
    "error_text",
    "git",
    "git_revision",
    "raw_data_digest",
    "raw_data_digests",
]


@dataclass(frozen=True)
class Revision:
    """The state of a git working tree.

    Attributes:
        commit: 40 hexadecimal digits; empty outside a repository.
        changes: what ``git status`` lists as changed or new, one path a line.
    """

    commit: str
    changes: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The first digits, with a mark if the tree is not what the commit says."""
        return (self.commit[:7] or "nogit") + ("-dirty" if self.changes else "")


def git_revision(*, allow_dirty: bool = False) -> Revision:
    """The revision of the working tree that the command is called in.

    Raises:
        PipelineError: there is none, or it has uncommitted changes, and neither is allowed.
    """
    done = git("rev-parse", "HEAD")
    if done.returncode:
        if allow_dirty:
            return Revision("")
        raise PipelineError(
            f"the working folder has no git revision ({_last_line(done.stderr)}), so that nobody could tell later what "
            "ran: call this in a clone with a commit, or give --allow-dirty."
        )
    changes = tuple(git("status", "--porcelain").stdout.splitlines())
    if changes and not allow_dirty:
        shown = "".join(f"\n  {line}" for line in changes[:10])
        more = f"\n  and {len(changes) - 10} more" if len(changes) > 10 else ""
        raise PipelineError(
            "the git tree has uncommitted changes, which no revision would name: commit or stash them, or give "
            f"--allow-dirty.{shown}{more}"
        )
    return Revision(done.stdout.strip(), changes)


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


def check_pushed(root: str) -> None:
    """Checks that raw data under DVC are as they were added, and are in the remote; other data pass.

    Raises:
        PipelineError: they are not, or DVC cannot tell.
    """
    file = None if is_remote(root) else dvc_file(root)
    if file is None:
        return
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


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs git in the working folder, whatever the outcome."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", "git is not installed")


def dvc(*arguments: str, capture: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs DVC in the working folder, whatever the outcome; ``environment`` is added to this process's own."""
    known = {**os.environ, "DVC_NO_ANALYTICS": "1", **environment}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, env=known, capture_output=capture, text=True, check=False)


def _dvc_status(file: Path, *options: str) -> str:
    """What differs, in words; empty if nothing does."""
    done = dvc("status", "--json", *options, str(file))
    if done.returncode:
        raise PipelineError(
            f"DVC cannot tell whether {file.with_suffix('')} is in its remote: {error_text(done.stderr)}. Set one up "
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


def error_text(stderr: str) -> str:
    """What DVC found wrong, out of all that it wrote."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    first = next((number for number, line in enumerate(lines) if line.startswith("ERROR:")), 0)
    return " ".join(lines[first:]).removeprefix("ERROR: ").rstrip(".") or "no text"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no text")
