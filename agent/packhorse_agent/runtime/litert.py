"""LiteRT (`ai-edge-litert`) behind the runtime protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from packhorse_agent.contract.manifest import RuntimeRequirement
from packhorse_agent.runtime import flatbuffer_session
from packhorse_agent.runtime.flatbuffer_session import FlatbufferSession, Library

_LIBRARY: Final = Library("LiteRT", Interpreter, OpResolverType)


def open_session(path: Path, requirement: RuntimeRequirement) -> FlatbufferSession:
    """Load a `.tflite` file; see `Runtime.open_session`.

    Raises:
        ModelLoadError: LiteRT does not take the file.
        RuntimeMissingError: none of the accelerators that `requirement` names is here.
    """
    return flatbuffer_session.open_session(_LIBRARY, path, requirement)
