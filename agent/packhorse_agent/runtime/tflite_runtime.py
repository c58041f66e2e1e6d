"""tflite-runtime, the last release of 2023, behind the runtime protocol.

It needs Python 3.11 or older and numpy older than 2, hence a worker with an environment of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from tflite_runtime.interpreter import Interpreter, OpResolverType

from packhorse_agent.contract.manifest import RuntimeRequirement
from packhorse_agent.runtime import flatbuffer_session
from packhorse_agent.runtime.errors import RuntimeMissingError
from packhorse_agent.runtime.flatbuffer_session import FlatbufferSession, Library

_LIBRARY: Final = Library("tflite-runtime", Interpreter, OpResolverType)


def open_session(path: Path, requirement: RuntimeRequirement) -> FlatbufferSession:
    """Load a `.tflite` file; see `Runtime.open_session`.

    Raises:
        ModelLoadError: tflite-runtime does not take the file.
        RuntimeMissingError: numpy is too new, or none of the accelerators that `requirement` names is here.
    """
    if int(np.__version__.split(".")[0]) >= 2:
        raise RuntimeMissingError(
            f"tflite-runtime cannot work with numpy {np.__version__}: give it an environment with numpy<2"
        )
    return flatbuffer_session.open_session(_LIBRARY, path, requirement)
