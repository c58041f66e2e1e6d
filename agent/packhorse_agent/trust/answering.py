"""The verifier's side of the dialogue: calls in, the keeper's answers out."""

from __future__ import annotations

import socket

from packhorse_agent.errors import AgentError, ConflictError
from packhorse_agent.trust.dialogue import Answer, Call, Failed, Needed, Setup, Viewed, receive, send
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.ports import NeedsBlobs, TargetInfo
from packhorse_agent.trust.view import TrustedView


def answer_calls(stream: socket.socket) -> None:
    """Answer until the stream ends."""
    setup = receive(stream, Setup)
    if setup is None:
        return
    answering: _Answering | None = None
    while (call := receive(stream, Call)) is not None:
        try:
            answering = answering or _Answering(TrustKeeper(setup.folder, setup.root_metadata, setup.fleet))
            answer = _described(answering.outcome(call))
        except AgentError as error:
            answer = Answer(failed=Failed(kind=type(error).__name__, text=str(error)))
        send(stream, answer)


class _Answering:
    """One keeper, its last view, so that a question costs no second verification, and all that was pulled."""

    def __init__(self, keeper: TrustKeeper) -> None:
        self._keeper = keeper
        self._view: TrustedView | None = None
        self._blobs: dict[str, bytes] = {}

    def outcome(self, call: Call) -> TrustedView | NeedsBlobs | TargetInfo | frozenset[str] | None:
        self._blobs.update(call.blobs)
        if call.method == "offer":
            offered = self._keeper.offer(call.files, self._blobs.get, call.now)
            self._view = offered if isinstance(offered, TrustedView) else self._view
            return offered
        if call.method == "current" or self._view is None:
            self._view = self._keeper.current(call.now, self._blobs.get)
        if call.method == "current":
            return self._view
        if self._view is None:
            raise ConflictError("nothing has been accepted yet")
        return self._view.tags(call.argument) if call.method == "tags" else self._view.resolve(call.argument)


def _described(outcome: TrustedView | NeedsBlobs | TargetInfo | frozenset[str] | None) -> Answer:
    match outcome:
        case None:
            return Answer()
        case NeedsBlobs(blobs, reason):
            needed = tuple((blob.sha256, blob.size_bytes, blob.chunk_index) for blob in blobs)
            return Answer(needed=Needed(blobs=needed, reason=reason))
        case TargetInfo(sha256, size_bytes, minimum_version):
            return Answer(target=(sha256, size_bytes, minimum_version))
        case frozenset():
            return Answer(tags=tuple(sorted(outcome)))
        case view:
            return Answer(
                view=Viewed(
                    rollouts=view.rollouts,
                    version=view.version,
                    expires=view.expires,
                    issued_at=view.issued_at,
                    expired=view.expired,
                )
            )
