"""Entry of a tool process: `PYTHON -I …/tools TOOL ANSWER_FILE`, the request as one line on standard input.

The answer is what the tool's `run` returns, `{"refused": TEXT}` where the model is at fault, or
`{"failed": TEXT}` with a traceback on standard error. The tool ends when its standard input does.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

_PACKAGE = "packhorse_tools"


def main() -> None:
    """Run one tool."""
    tool, answer_path = sys.argv[1:]
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _load_package(_PACKAGE, Path(__file__).parent)
    answer = _answered(importlib.import_module(f"{_PACKAGE}.{tool}"), request)
    scratch = Path(f"{answer_path}.part")
    scratch.write_text(json.dumps(answer))
    scratch.rename(answer_path)


def _answered(module: Any, request: dict[str, Any]) -> dict[str, Any]:
    refusal = importlib.import_module(f"{_PACKAGE}.refusal").RefusedByTool
    try:
        answer: dict[str, Any] = module.run(request)
    except refusal as error:
        return {"refused": str(error)}
    except Exception as error:  # whatever a converter raises on a graph that it does not expect
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:2000]}
    return answer


def _end_with_parent() -> None:
    while sys.stdin.read(4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _load_package(name: str, folder: Path) -> None:
    """Make a folder importable as a package without making what lies beside it importable too."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    main()
