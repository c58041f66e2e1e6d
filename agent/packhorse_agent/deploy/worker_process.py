"""The supervisor's side of a worker: start it, command it, hear what it says and how it ends.

One reader thread for each worker turns replies into events and posts them; nothing else happens there.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from pydantic import BaseModel

from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.manifest import ArtifactRole
from packhorse_agent.contract.messages import ProbeResult
from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.serve.protocol import (
    AskStats,
    Drain,
    DrainedReply,
    LineBuffer,
    Load,
    LoadedReply,
    LoadFailedReply,
    Probe,
    ProbedReply,
    Reply,
    Serve,
    ServingReply,
    StatsReply,
    WorkerStats,
    encode_line,
    parse_reply,
)

_log = logging.getLogger(__name__)

LOG_MAX_BYTES: Final = 1024 * 1024
"""A worker's log; a larger one becomes `NAME.1`, which replaces the one before."""

LAST_LOG_LINES: Final = 40
_LAST_LOG_BYTES: Final = 8 * 1024
_READ_BYTES: Final = 64 * 1024
_EXIT_WAIT_S: Final = 5.0


class WorkerStartError(EnvironmentFaultError):
    """The interpreter of the worker cannot be started."""


@dataclass(frozen=True)
class WorkerSpec:
    """What one worker serves, and how it is run."""

    slot: str
    version: str
    manifest_path: Path
    artifacts: Mapping[ArtifactRole, Path]
    """Verified files by role."""
    python: Path
    """The interpreter; it has the runtime."""
    log_path: Path
    memory_limit_bytes: int | None
    """Of memory that is written to (RLIMIT_DATA); None: no limit of its own."""
    token: str
    """Given: what requests over TCP must carry."""


@dataclass(frozen=True)
class Loaded:
    """The model is loaded and has run once."""

    worker: WorkerProcess
    load_ms: float
    first_inference_us: float
    provider: str
    notes: tuple[str, ...]
    """What a person should know, above all a preferred accelerator that was not had."""


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be served; `Exited` follows."""

    worker: WorkerProcess
    detail: str


@dataclass(frozen=True)
class Probed:
    """How the golden vectors came out."""

    worker: WorkerProcess
    result: ProbeResult


@dataclass(frozen=True)
class Serving:
    """The worker accepts connections."""

    worker: WorkerProcess


@dataclass(frozen=True)
class Drained:
    """The worker's last connection is closed; `Exited` follows."""

    worker: WorkerProcess


@dataclass(frozen=True)
class Stats:
    """Answers `request_stats`, and comes once more before `Drained`."""

    worker: WorkerProcess
    stats: WorkerStats


@dataclass(frozen=True)
class Exited:
    """The worker's process has ended; always its last event."""

    worker: WorkerProcess
    returncode: int | None
    """None when a signal ended it."""
    signal: int | None
    last_log_lines: tuple[str, ...]


WorkerEvent: TypeAlias = Loaded | LoadFailed | Probed | Serving | Drained | Stats | Exited


class WorkerProcess:
    """A running worker. Commands return at once; what comes of them is posted as events.

    A command to a worker that is gone does nothing: its `Exited` is posted or on its way.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        process: subprocess.Popen[bytes],
        control: socket.socket,
        post: Callable[[WorkerEvent], None],
        log_start: int,
    ) -> None:
        self.spec = spec
        self._process = process
        self._control = control
        self._post = post
        self._log_start = log_start
        name = f"worker-{spec.slot}"
        threading.Thread(target=self._listen, name=name, daemon=True).start()

    @classmethod
    def start(cls, spec: WorkerSpec, post: Callable[[WorkerEvent], None]) -> WorkerProcess:
        """Start the process; call it from the main thread only, since a worker ends with the thread that
        started it (PR_SET_PDEATHSIG, prctl(2)). `post` is called on another thread.

        Raises:
            WorkerStartError: the interpreter or the log file cannot be opened.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                _bound_log(spec.log_path)
                with spec.log_path.open("ab") as log:
                    log_start = log.tell()
                    process = _spawn(spec, theirs.fileno(), log.fileno())
        except OSError as error:
            ours.close()
            raise WorkerStartError(f"slot {spec.slot}: cannot start {spec.python}: {error}") from error
        return cls(spec, process, ours, post, log_start)

    def __repr__(self) -> str:
        return f"WorkerProcess(slot={self.spec.slot}, version={self.spec.version}, pid={self.pid})"

    @property
    def pid(self) -> int:
        """The process, which may have ended."""
        return self._process.pid

    def load(self) -> None:
        """Load the model; `Loaded` or `LoadFailed` follows."""
        spec = self.spec
        artifacts = {role: path.absolute() for role, path in spec.artifacts.items()}
        manifest_path = spec.manifest_path.absolute()
        load = Load(slot=spec.slot, version=spec.version, manifest_path=manifest_path, artifacts=artifacts)
        self._send(load)

    def probe(self) -> None:
        """Replay the golden vectors; `Probed` follows."""
        self._send(Probe())

    def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Accept connections on these sockets, which stay open here too; `Serving` follows."""
        self._send(Serve(listeners=len(listeners), token=self.spec.token), listeners)

    def drain(self, grace_s: float) -> None:
        """Accept no more and end after the last answer; connections on which nothing is asked are kept open
        for `grace_s`. `Stats`, `Drained` and `Exited` follow."""
        self._send(Drain(grace_s=grace_s))

    def request_stats(self) -> None:
        """Ask for what was done since the last time; `Stats` follows."""
        with contextlib.suppress(OSError):  # a disk that is full must not keep the figures back
            _bound_log(self.spec.log_path, keep_file=True)
        self._send(AskStats())

    def kill(self) -> None:
        """End the process at once, if it has not ended; `Exited` follows."""
        self._process.kill()

    def _send(self, command: BaseModel, sockets: Sequence[socket.socket] = ()) -> None:
        line = encode_line(command)
        fds = array.array("i", [sock.fileno() for sock in sockets])
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        try:
            # not by socket.send_fds: up to Python 3.11 it drops the flags, and would block
            sent = self._control.sendmsg([line], beside, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        if sent < len(line):
            _log.error(
                "worker %d of slot %s does not read its commands; it is killed", self.pid, self.spec.slot
            )
            self.kill()

    def _listen(self) -> None:
        lines = LineBuffer()
        try:
            while data := self._receive():
                for line in lines.feed(data):
                    self._post(self._event(parse_reply(line)))
        except MalformedMessageError as error:
            _log.error("worker %d of slot %s: %s; it is killed", self.pid, self.spec.slot, error)
            self._process.kill()
        self._post(self._wait())

    def _receive(self) -> bytes:
        try:
            return self._control.recv(_READ_BYTES)
        except ConnectionResetError:
            return b""

    def _event(self, reply: Reply) -> WorkerEvent:
        match reply:
            case LoadedReply():
                return Loaded(self, reply.load_ms, reply.first_inference_us, reply.provider, reply.notes)
            case LoadFailedReply():
                return LoadFailed(self, reply.detail)
            case ProbedReply():
                return Probed(self, reply.result)
            case ServingReply():
                return Serving(self)
            case DrainedReply():
                return Drained(self)
            case StatsReply():
                return Stats(self, reply.stats)

    def _wait(self) -> Exited:
        try:
            code = self._process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._control.close()
        lines = _last_lines(self.spec.log_path, self._log_start)
        return Exited(self, None if code < 0 else code, -code if code < 0 else None, lines)


def _spawn(spec: WorkerSpec, control_fd: int, log_fd: int) -> subprocess.Popen[bytes]:
    command = [str(spec.python.absolute()), "-m", "packhorse_agent.serve"]
    command += ["--control-fd", str(control_fd), "--parent-pid", str(os.getpid())]
    if spec.memory_limit_bytes is not None:
        command += ["--memory-limit-bytes", str(spec.memory_limit_bytes)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=log_fd,
        close_fds=True,
        pass_fds=(control_fd,),
        start_new_session=True,
        cwd="/",
        # numpy's own thread pool is never used: without this it takes memory for each core
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


def _bound_log(path: Path, *, keep_file: bool = False) -> None:
    """Set a large log aside; one that a worker writes to is copied and emptied in place."""
    if not path.exists() or path.stat().st_size <= LOG_MAX_BYTES:
        return
    aside = path.with_name(path.name + ".1")
    if keep_file:
        shutil.copyfile(path, aside)
        os.truncate(path, 0)
    else:
        path.replace(aside)


def _last_lines(path: Path, start: int) -> tuple[str, ...]:
    """The end of what was written since `start`, a byte position."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            begin = start if start <= size else 0
            log.seek(max(begin, size - _LAST_LOG_BYTES))
            text = log.read(_LAST_LOG_BYTES).decode(errors="replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-LAST_LOG_LINES:])
