"""The one exception by which a tool says that the model, not the tool, is at fault."""

from __future__ import annotations


class RefusedByTool(Exception):  # noqa: N818 (a refusal, no error of the tool)
    """The model cannot be converted; the text is for the person who gave it."""
