"""Run a model on a runtime of this environment, through the device's own module.

Request: `agent` (the folder of packhorse_agent), `runtime`, `model`, `vectors` (an `.npz` of inputs by name),
`answers` (a file to write), `inputs` and `outputs` (tensors as a manifest describes them).
Answer: `version` of the runtime, `provider` and `notes` of the session.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from .refusal import RefusedByTool


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Replay every vector, one at a time."""
    import numpy

    _make_importable("packhorse_agent", Path(request["agent"]))
    base = importlib.import_module("packhorse_agent.runtime.base")
    manifest = importlib.import_module("packhorse_agent.contract.manifest")
    errors = importlib.import_module("packhorse_agent.runtime.errors")
    name = request["runtime"]
    requirement = manifest.RuntimeRequirement(name=name, minimum_version="0", threads=1)
    inputs = [manifest.TensorSpec(**spec) for spec in request["inputs"]]
    outputs = [manifest.TensorSpec(**spec) for spec in request["outputs"]]
    vectors = dict(numpy.load(request["vectors"], allow_pickle=False))
    count = len(next(iter(vectors.values())))
    try:
        session = base.open_model(Path(request["model"]), requirement, inputs, outputs)
        answers = [
            session.run({name: array[at : at + 1] for name, array in vectors.items()}) for at in range(count)
        ]
    except (errors.ModelLoadError, errors.InferenceFailedError, errors.InputRefusedError) as error:
        raise RefusedByTool(str(error)) from error
    joined: Any = {name: numpy.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    numpy.savez(request["answers"], **joined)
    version = importlib.import_module("packhorse_agent.runtime.installed").installed_runtimes()[name]
    return {"version": version, "provider": session.provider, "notes": list(session.notes)}


def _make_importable(name: str, folder: Path) -> None:
    """As a package alone: what lies beside it belongs to another Python."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
