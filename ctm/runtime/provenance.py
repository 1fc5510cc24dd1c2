"""Where a result comes from: the revision of the code, and the run of Kubeflow."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["git", "git_revision", "run_label"]


def git_revision() -> dict[str, Any] | None:
    """Revision of the code and whether it had uncommitted changes; None outside a checkout or without git.

    An image has no git: its build says the revision in ``CTM_GIT_REVISION``, with ``-dirty`` behind it for changes.
    """
    if built := os.environ.get("CTM_GIT_REVISION"):
        return {"revision": built.removesuffix("-dirty"), "dirty": built.endswith("-dirty")}
    try:
        revision = git("rev-parse", "HEAD").strip()
        return {"revision": revision, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def run_label() -> dict[str, str]:
    """The label ``run`` with the id that Kubeflow gave the run, where the pod says one in ``CTM_RUN``."""
    run = os.environ.get("CTM_RUN")
    return {"run": run} if run else {}


def git(*arguments: str, folder: Path = Path()) -> str:
    """What git prints when it is called in ``folder``.

    Raises:
        OSError: there is no git.
        CalledProcessError: git refuses; it has the text.
    """
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout
