"""The trust keeper in a process of its own, which lives only while something is asked.

python-tuf and all that it imports would double what the supervisor holds in memory between two releases, and
what it parses comes from outside: a process that is thrown away can be bounded in memory and time, and takes
nobody with it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, cast

from packhorse_agent import errors as agent_errors
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.rollout import RolloutsDocument
from packhorse_agent.errors import AgentError, EnvironmentFaultError, UntrustedError
from packhorse_agent.store import errors as store_errors
from packhorse_agent.trust import errors as trust_errors
from packhorse_agent.trust.dialogue import Answer, Call, Failed, Needed, Setup, receive, send
from packhorse_agent.trust.ports import BlobReader, NeededBlob, NeedsBlobs, TargetInfo, View

ANSWER_TIMEOUT_S: Final = 20.0
"""Starting Python on a slow device takes seconds, verifying a trust set less than one. Meanwhile the
supervisor waits; workers go on serving."""


class VerifierError(EnvironmentFaultError):
    """The verifier could not be started, ended, or did not answer in time."""


@dataclass(frozen=True)
class RemoteView:
    """What the verifier said of the accepted metadata; it is asked again for tags and targets, once each."""

    rollouts: RolloutsDocument
    version: int
    expires: datetime
    issued_at: datetime
    expired: bool
    _verifier: Verifier
    _now: datetime
    _blobs: BlobReader
    _tags: dict[str, frozenset[str]] = field(default_factory=dict)
    _targets: dict[str, TargetInfo | None] = field(default_factory=dict)

    def tags(self, device_id: str) -> frozenset[str] | NeedsBlobs:
        """See `View`."""
        if device_id not in self._tags:
            answer = self._ask(Call(method="tags", now=self._now, argument=device_id))
            if answer.needed is not None:
                return _needs(answer.needed)
            self._tags[device_id] = frozenset(answer.tags or ())
        return self._tags[device_id]

    def resolve(self, target_path: str) -> TargetInfo | NeedsBlobs | None:
        """See `View`."""
        if target_path not in self._targets:
            answer = self._ask(Call(method="resolve", now=self._now, argument=target_path))
            if answer.needed is not None:
                return _needs(answer.needed)
            self._targets[target_path] = TargetInfo(*answer.target) if answer.target else None
        return self._targets[target_path]

    def _ask(self, call: Call) -> Answer:
        return self._verifier.ask(call, self._blobs)


class Verifier:
    """A `Keeper` that asks `python -m packhorse_agent.trust`. For the main thread only: the process ends
    with the thread that started it (PR_SET_PDEATHSIG, prctl(2)).
    """

    def __init__(
        self,
        folder: Path,
        root_metadata: bytes,
        fleet: str,
        *,
        command: tuple[str, ...] = (sys.executable, "-m", "packhorse_agent.trust"),
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._setup = Setup(folder=folder, root_metadata=root_metadata, fleet=fleet)
        self._command = command
        self._timeout_s = timeout_s
        self._child: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._child[0].pid if self._child else None

    def offer(self, files: Mapping[str, bytes], blobs: BlobReader, now: datetime) -> View | NeedsBlobs:
        """See `Keeper`."""
        answer = self.ask(Call(method="offer", now=now, files=dict(files)), blobs)
        view = self._view(answer, blobs, now)
        if view is None:
            return _needs(answer.needed) if answer.needed else NeedsBlobs((), "the verifier said nothing")
        return view

    def current(self, now: datetime, blobs: BlobReader) -> View | None:
        """See `Keeper`."""
        return self._view(self.ask(Call(method="current", now=now), blobs), blobs, now)

    def rest(self) -> None:
        """End the process."""
        if self._child is None:
            return
        process, stream = self._child
        self._child = None
        stream.close()
        process.kill()  # between two calls it holds nothing that is not on the disk
        process.wait()

    def ask(self, call: Call, blobs: BlobReader) -> Answer:
        """Put a call, again with what it needs as long as `blobs` has it.

        Raises:
            AgentError subclasses: what the keeper raised.
            VerifierError: no answer.
        """
        while True:
            answer = self._exchange(call)
            needed = answer.needed.blobs if answer.needed else ()
            found = {sha: data for sha, *_ in needed if sha not in call.blobs and (data := blobs(sha))}
            if not found:
                break
            call = call.model_copy(update={"blobs": {**call.blobs, **found}})
        if answer.failed is not None:
            raise _error(answer.failed)
        return answer

    def _exchange(self, call: Call) -> Answer:
        try:
            stream = self._stream()
            send(stream, call)
            answer = receive(stream, Answer)
        except (OSError, MalformedMessageError) as error:
            self.rest()
            raise VerifierError(f"the verifier of metadata does not answer: {error!r}") from error
        if answer is None:
            raise VerifierError(f"the verifier of metadata ended ({self._end()}); the log above says more")
        return answer

    def _stream(self) -> socket.socket:
        if self._child is None:
            self._child = self._start()
            send(self._child[1], self._setup)
        return self._child[1]

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        ours.settimeout(self._timeout_s)
        descriptor = theirs.fileno()
        command = [*self._command, "--socket-fd", str(descriptor), "--parent-pid", str(os.getpid())]
        with theirs:
            try:
                return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[descriptor]), ours
            except OSError:
                ours.close()
                raise

    def _end(self) -> str:
        assert self._child is not None  # noqa: S101
        process = self._child[0]
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        self.rest()
        return "still running" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"

    def _view(self, answer: Answer, blobs: BlobReader, now: datetime) -> View | None:
        seen = answer.view
        if seen is None:
            return None
        return RemoteView(
            seen.rollouts, seen.version, seen.expires, seen.issued_at, seen.expired, self, now, blobs
        )


def _needs(needed: Needed) -> NeedsBlobs:
    return NeedsBlobs(tuple(NeededBlob(*blob) for blob in needed.blobs), needed.reason)


def _error(failed: Failed) -> AgentError:
    """The keeper's error again: of its own class where that is one of trust's or the store's."""
    for module in (trust_errors, store_errors, agent_errors):
        kind = getattr(module, failed.kind, AgentError)
        if kind is store_errors.StorageFaultError:
            return store_errors.StorageFaultError(failed.text, 0)
        if kind is not AgentError:
            return cast("type[AgentError]", kind)(failed.text)
    return UntrustedError(failed.text)
