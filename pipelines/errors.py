"""What goes wrong with pipelines and is the user's to mend."""

from __future__ import annotations

from ctm.errors import CtmError

__all__ = ["PipelineError"]


class PipelineError(CtmError):
    """A pipeline cannot be compiled, checked, run, submitted or recorded as asked."""
