"""Real worker processes, and everything that can befall them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.contract.messages import sketch_from_text
from packhorse_agent.deploy import worker_process as module
from packhorse_agent.deploy.listeners import SlotListeners
from packhorse_agent.deploy.worker_process import (
    Drained,
    Exited,
    Loaded,
    Probed,
    Stats,
    WorkerStartError,
)
from packhorse_agent.runtime.base import open_model
from packhorse_agent.runtime.golden import GoldenVectors
from tests.agent.models import WEIGHTS, linear_model, probe_limits, write_bundle
from tests.agent.workers import (
    DEADLINE_S,
    Stable,
    UnixConnection,
    ask,
    inference,
    listening,
    stable,
    tcp_connection,
)
from tests.helpers import wait_until

INFER = "/v2/models/classifier/infer"
ROW = inference([[1.0, 2.0, 3.0, 4.0]])
IDLE_SPAN_S = 0.5


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Stable]:
    with stable(tmp_path) as owner:
        yield owner


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[SlotListeners]:
    with listening(tmp_path) as opened:
        yield opened


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_a_worker_from_start_to_end(workers: Stable, listeners: SlotListeners) -> None:
    worker = workers.start(workers.spec(token="geheim"))
    worker.load()
    loaded = workers.expect(Loaded, worker)
    assert loaded.load_ms > 0
    assert loaded.first_inference_us > 0
    assert (loaded.provider, loaded.notes) == ("CPUExecutionProvider", ())
    worker.probe()
    result = workers.expect(Probed, worker).result
    assert (result.passed, result.vectors, result.agreement_percent) == (True, 8, 100.0)
    assert result.latency_p50_us > 0
    worker.serve(listeners.sockets)
    workers.expect(module.Serving, worker)
    tcp, unix = tcp_connection(listeners), UnixConnection(Path(listeners.sockets[0].getsockname()))
    assert ask(tcp, "POST", INFER, ROW).status == 401
    assert ask(tcp, "POST", INFER, ROW, {"Authorization": "Bearer geheim"}).status == 200
    answer = ask(unix, "POST", INFER, ROW)
    np.testing.assert_allclose(
        answer.content["outputs"][0]["data"], [1.0, 2.0, 3.0, 4.0] @ WEIGHTS, rtol=1e-5
    )
    worker.request_stats()
    stats = workers.expect(Stats, worker).stats
    assert (stats.requests, stats.errors, sketch_from_text(stats.latency_us).count) == (2, 0, 2)
    assert stats.cpu_seconds > 0
    ask(unix, "POST", INFER, ROW)
    worker.drain(0.05)
    assert workers.expect(Stats, worker).stats.requests == 1
    workers.expect(Drained, worker)
    exited = workers.expect(Exited, worker)
    assert (exited.returncode, exited.signal) == (0, None)


def test_the_sample_model_decides_over_http_as_in_process(workers: Stable, listeners: SlotListeners) -> None:
    sample = Path(__file__).parents[3] / "samples" / "fashion-mnist"
    images = np.load(sample / "evaluation.npz", allow_pickle=False)["image"][:40]
    specs = (
        (TensorSpec(name="image", datatype="FP32", shape=(-1, 1, 28, 28)),),
        (TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),),
    )
    requirement = RuntimeRequirement(name="onnxruntime", minimum_version="1.20")
    here = open_model(sample / "model.onnx", requirement, *specs).run({"image": images})
    golden = GoldenVectors({"image": images}, here, here)
    model = (sample / "model.onnx").read_bytes()
    bundle = write_bundle(
        workers.folder / "sample", model=model, golden=golden, inputs=specs[0], outputs=specs[1]
    )
    workers.serving(listeners.sockets, workers.spec(bundle))
    tensor = {
        "name": "image",
        "datatype": "FP32",
        "shape": list(images.shape),
        "data": images.ravel().tolist(),
    }
    connection = tcp_connection(listeners)
    answer = ask(connection, "POST", INFER, {"inputs": [tensor]})
    scores = np.reshape(answer.content["outputs"][0]["data"], (40, 10))
    np.testing.assert_array_equal(scores.astype(np.float32), here["logits"])
    connection.close()


def test_a_worker_is_tied_and_bound(workers: Stable) -> None:
    worker = workers.loaded()
    status = status_of(worker.pid)
    assert status["NoNewPrivs"] == "1"
    assert os.getsid(worker.pid) == worker.pid
    assert resource.prlimit(worker.pid, resource.RLIMIT_CORE) == (0, 0)
    os.kill(worker.pid, signal.SIGINT)
    worker.request_stats()
    workers.expect(Stats, worker)


def test_a_worker_inherits_nothing_but_its_own_descriptors(workers: Stable, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        worker = workers.loaded()
        links = [str(link.readlink()) for link in Path(f"/proc/{worker.pid}/fd").iterdir()]
    assert not [link for link in links if "secret" in link]


def test_a_worker_idles_without_cpu(workers: Stable, listeners: SlotListeners) -> None:
    bundle = write_bundle(
        workers.folder / "threads",
        runtime=RuntimeRequirement(name="onnxruntime", minimum_version="1.20", threads=2),
    )
    worker = workers.serving(listeners.sockets, workers.spec(bundle))
    connection = tcp_connection(listeners)
    assert ask(connection, "POST", INFER, ROW).status == 200
    before = Path(f"/proc/{worker.pid}/stat").read_text().split()[13:15]
    threading.Event().wait(IDLE_SPAN_S)
    after = Path(f"/proc/{worker.pid}/stat").read_text().split()[13:15]
    connection.close()
    assert sum(map(int, after)) - sum(map(int, before)) <= 1


SUPERVISOR = """
import sys, time
from tests.agent.workers import *
owner = Stable(Path(sys.argv[1]))
print(owner.loaded().pid, flush=True)
time.sleep(60)
"""


def test_a_worker_dies_with_its_supervisor(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as supervisor:
        assert supervisor.stdout
        pid = int(supervisor.stdout.readline())
        supervisor.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or status_of(pid)["State"].startswith("Z"))


def test_a_worker_without_a_supervisor_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "packhorse_agent.serve", "--control-fd", "0", "--parent-pid", "1"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_told_with_its_signal(
    number: signal.Signals, workers: Stable, listeners: SlotListeners
) -> None:
    worker = workers.serving(listeners.sockets)
    os.kill(worker.pid, number)
    exited = workers.expect(Exited, worker)
    assert (exited.returncode, exited.signal) == (None, number)
    if number == signal.SIGSEGV:
        assert any("Segmentation fault" in line for line in exited.last_log_lines)
    for late in (worker.load, worker.probe, worker.request_stats, worker.kill, lambda: worker.drain(1.0)):
        late()
    worker.serve(listeners.sockets)


def test_the_next_worker_takes_the_listeners_of_one_that_crashed(
    workers: Stable, listeners: SlotListeners
) -> None:
    first = workers.serving(listeners.sockets)
    os.kill(first.pid, signal.SIGSEGV)
    workers.expect(Exited, first)
    connection = tcp_connection(listeners)
    connection.request("POST", INFER, json.dumps(ROW))
    workers.serving(listeners.sockets)
    assert connection.getresponse().status == 200
    connection.close()


def test_a_worker_that_hangs_can_be_killed(workers: Stable) -> None:
    worker = workers.start()
    os.kill(worker.pid, signal.SIGSTOP)
    worker.load()
    worker.kill()
    worker.kill()
    assert workers.expect(Exited, worker).signal == signal.SIGKILL


def test_a_failed_probe_is_a_result(workers: Stable) -> None:
    bundle = write_bundle(workers.folder / "strict", model=linear_model(WEIGHTS * 1.5), probe=probe_limits(8))
    worker = workers.loaded(workers.spec(bundle))
    worker.probe()
    result = workers.expect(Probed, worker).result
    assert not result.passed
    assert "SQNR" in result.detail


def test_a_command_out_of_turn_ends_the_worker(workers: Stable) -> None:
    worker = workers.start()
    worker.probe()
    exited = workers.expect(Exited, worker)
    assert exited.returncode == 1
    assert "no model is loaded" in exited.last_log_lines[-1]


def test_draining_before_serving_just_ends(workers: Stable) -> None:
    worker = workers.loaded()
    worker.drain(30.0)
    worker.drain(30.0)
    assert workers.wait_for(Exited, worker).returncode == 0


def test_an_interpreter_that_is_not_there_is_named(workers: Stable, tmp_path: Path) -> None:
    with pytest.raises(WorkerStartError, match="no-python"):
        workers.start(workers.spec(python=tmp_path / "no-python"))


def test_an_interpreter_without_the_agent_exits_with_its_words(workers: Stable) -> None:
    spec = workers.spec(python=Path("/usr/bin/env"))
    exited = workers.expect(Exited, workers.start(spec))
    assert exited.returncode not in (0, None)
    assert exited.last_log_lines


FAKE_WORKER = """#!{python}
import os, sys
fd = int(sys.argv[sys.argv.index("--control-fd") + 1])
os.write(fd, {line!r})
os.read(fd, 1)
"""


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"kind":"dance"}\n', b"x" * 100_000])
def test_a_worker_that_talks_nonsense_is_killed(line: bytes, workers: Stable, tmp_path: Path) -> None:
    script = tmp_path / "fake"
    script.write_text(FAKE_WORKER.format(python=sys.executable, line=line))
    script.chmod(0o755)
    worker = workers.start(workers.spec(python=script))
    assert workers.expect(Exited, worker).signal == signal.SIGKILL


def test_a_worker_that_does_not_read_its_commands_is_killed(workers: Stable) -> None:
    worker = workers.loaded()
    os.kill(worker.pid, signal.SIGSTOP)

    def is_full() -> bool:
        for _ in range(1000):
            worker.request_stats()
        return worker._process.poll() is not None

    wait_until(is_full)
    assert workers.expect(Exited, worker).signal == signal.SIGKILL


def test_a_large_log_is_set_aside(workers: Stable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_MAX_BYTES", 1000)
    spec = workers.spec()
    spec.log_path.write_text("old\n" * 1000)
    worker = workers.loaded(spec)
    aside = spec.log_path.with_name("classifier.log.1")
    assert aside.read_text().startswith("old")
    with spec.log_path.open("a") as log:
        log.write("new\n" * 1000)
    worker.request_stats()
    assert aside.read_text().startswith("new")
    assert spec.log_path.read_text() == ""
    os.kill(worker.pid, signal.SIGSEGV)
    exited = workers.wait_for(Exited, worker)
    assert any("Segmentation fault" in line for line in exited.last_log_lines)


def test_only_the_last_lines_of_this_worker_are_told(workers: Stable) -> None:
    spec = workers.spec()
    spec.log_path.write_text("of an earlier worker\n")
    worker = workers.loaded(spec)
    with spec.log_path.open("a") as log:
        log.write("\n".join(f"line {number}" for number in range(100)) + "\n")
    worker.kill()
    lines = workers.expect(Exited, worker).last_log_lines
    assert lines == tuple(f"line {number}" for number in range(60, 100))


def test_the_supervisor_side_imports_no_runtime() -> None:
    check = (
        "import sys; import packhorse_agent.deploy.worker_process, packhorse_agent.deploy.listeners;"
        "print(sorted({'numpy', 'onnxruntime', 'typer', 'rich', 'httptools'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
