"""Nothing on a device talks to anyone but the fleet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.models import linear_model

_OPEN = "import {module}; import onnxruntime; onnxruntime.InferenceSession('model.onnx')"


@pytest.mark.parametrize("module", ["packhorse_agent.runtime", "packhorse_host.quantize"])
def test_onnx_runtime_keeps_no_telemetry_session(tmp_path: Path, module: str) -> None:
    pytest.importorskip(module.partition(".")[0])
    (tmp_path / "model.onnx").write_bytes(linear_model())
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", _OPEN.format(module=module)],
        cwd=tmp_path,
        env={**environment, "TMPDIR": str(tmp_path)},
        check=True,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
