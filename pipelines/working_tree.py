"""The working tree as git and DVC know it, and the two commands themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.errors import PipelineError

__all__ = ["Revision", "dvc", "dvc_error", "git", "git_revision", "start_dvc"]


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


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs git in the working folder, whatever the outcome."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", "git is not installed")


def dvc(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs DVC in the working folder, whatever the outcome; ``environment`` is added to this process's own."""
    known = _dvc_environment(environment)
    return subprocess.run(_DVC + arguments, env=known, capture_output=True, text=True, check=False)


def start_dvc(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """The same, started, what it writes for the user to see."""
    return subprocess.Popen(_DVC + arguments, env=_dvc_environment(environment))


_DVC = (sys.executable, "-m", "dvc")


def _dvc_environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "DVC_NO_ANALYTICS": "1", **more}


def dvc_error(stderr: str) -> str:
    """What DVC found wrong, out of all that it wrote."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    first = next((number for number, line in enumerate(lines) if line.startswith("ERROR:")), 0)
    return " ".join(lines[first:]).removeprefix("ERROR: ").rstrip(".") or "no text"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no text")
