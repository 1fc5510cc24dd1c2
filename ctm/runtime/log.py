"""The one place that decides how ctm's log lines look."""

from __future__ import annotations

import logging
import sys

__all__ = ["show_log"]


def show_log(level: int = logging.INFO) -> None:
    """Sends ctm's log to standard error, one plain line a message; other libraries only speak up from warnings on.

    Args:
        level: what is less is not shown, and without INFO no progress either: of several processes one speaks for all.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("ctm")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
