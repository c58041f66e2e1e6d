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
    keeper: TrustKeeper | None = None
    while (call := receive(stream, Call)) is not None:
        try:
            keeper = keeper or TrustKeeper(setup.folder, setup.root_metadata, setup.fleet)
            answer = _answer(keeper, call)
        except AgentError as error:
            answer = Answer(failed=Failed(kind=type(error).__name__, text=str(error)))
        send(stream, answer)


def _answer(keeper: TrustKeeper, call: Call) -> Answer:
    blobs = call.blobs.get
    if call.method == "offer":
        return _described(keeper.offer(call.files, blobs, call.now))
    view = keeper.current(call.now, blobs)
    if call.method == "current":
        return _described(view)
    if view is None:
        raise ConflictError("nothing has been accepted yet")
    return _described(view.tags(call.argument) if call.method == "tags" else view.resolve(call.argument))


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
