"""What supervisor and worker say to each other, as JSON lines over a Unix socket pair.

The supervisor sends commands, the worker answers each with one reply. The listening sockets travel beside
the `serve` command as SCM_RIGHTS. The end of the stream tells either side that the other is gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from packhorse_agent.contract.base import Name, Version, WireDocument
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.manifest import ArtifactRole
from packhorse_agent.contract.messages import ProbeResult
from packhorse_agent.serve.limits import CONTROL_LINE_MAX_BYTES

LISTENERS_MAX: Final = 4
"""Listening sockets in one `serve` command."""


class Load(WireDocument):
    """Load the model; its artifacts were verified by the sender."""

    kind: Literal["load"] = "load"
    slot: Name
    version: Version
    manifest_path: Path
    artifacts: dict[ArtifactRole, Path]


class Probe(WireDocument):
    """Replay the golden vectors."""

    kind: Literal["probe"] = "probe"


class Serve(WireDocument):
    """Answer requests on the listening sockets that come with this line."""

    kind: Literal["serve"] = "serve"
    listeners: Annotated[int, Field(ge=1, le=LISTENERS_MAX)]
    token: str = ""
    """Given: what each request over TCP must carry as a bearer token."""


class Drain(WireDocument):
    """Take no new connection, answer what comes on the open ones, then exit."""

    kind: Literal["drain"] = "drain"
    grace_s: Annotated[float, Field(ge=0)]
    """How long connections stay open on which nothing is asked."""


class AskStats(WireDocument):
    """Tell what was done since the last time."""

    kind: Literal["stats"] = "stats"


Command = Annotated[Load | Probe | Serve | Drain | AskStats, Field(discriminator="kind")]


class WorkerStats(WireDocument):
    """What a worker did since it was last asked, and what it holds."""

    requests: int
    """Inferences asked for."""
    errors: int
    """Those that failed here: the runtime, or a queue that was full (5xx)."""
    rejected_requests: int
    """Those that were refused because of what was sent (4xx): a release that takes other inputs than the one
    before it must show, but is no failure of the device."""
    latency_us: str
    """`sketch_to_text` of the time inside the runtime, request by request."""
    cpu_seconds: float
    """Of the process since its start, all threads."""
    rss_bytes: int


class LoadedReply(WireDocument):
    """The model is loaded and has run once."""

    kind: Literal["loaded"] = "loaded"
    load_ms: float
    """From the command to a session that is ready, the runtime's own import included."""
    first_inference_us: float
    provider: str
    """The accelerator that runs it."""
    notes: tuple[str, ...] = ()
    """What a person should know, above all a preferred accelerator that was not had."""


class LoadFailedReply(WireDocument):
    """The model cannot be served; the worker exits."""

    kind: Literal["load_failed"] = "load_failed"
    detail: str


class ProbedReply(WireDocument):
    """How the golden vectors came out."""

    kind: Literal["probed"] = "probed"
    result: ProbeResult


class ServingReply(WireDocument):
    """Connections are being accepted."""

    kind: Literal["serving"] = "serving"


class DrainedReply(WireDocument):
    """The last connection is closed; the worker exits."""

    kind: Literal["drained"] = "drained"


class StatsReply(WireDocument):
    """Answers `stats`, and comes by itself before `drained`, so that the last requests count too."""

    kind: Literal["stats"] = "stats"
    stats: WorkerStats


Reply = Annotated[
    LoadedReply | LoadFailedReply | ProbedReply | ServingReply | DrainedReply | StatsReply,
    Field(discriminator="kind"),
]

_COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)
_REPLIES: TypeAdapter[Reply] = TypeAdapter(Reply)


def encode_line(message: BaseModel) -> bytes:
    """One message as a line. Law: `parse_command` and `parse_reply` read it back."""
    return message.model_dump_json().encode() + b"\n"


def parse_command(line: bytes) -> Command:
    """Read what the supervisor said.

    Raises:
        MalformedMessageError: not a command.
    """
    try:
        return _COMMANDS.validate_json(line)
    except ValidationError as error:
        raise MalformedMessageError(f"not a command: {line[:200]!r}") from error


def parse_reply(line: bytes) -> Reply:
    """Read what the worker said.

    Raises:
        MalformedMessageError: not a reply.
    """
    try:
        return _REPLIES.validate_json(line)
    except ValidationError as error:
        raise MalformedMessageError(f"not a reply: {line[:200]!r}") from error


class LineBuffer:
    """Cuts a stream into lines, and bounds them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends.

        Raises:
            MalformedMessageError: a line is longer than the bound.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if max(map(len, (*lines, self._rest))) > CONTROL_LINE_MAX_BYTES:
            raise MalformedMessageError(f"a line of over {CONTROL_LINE_MAX_BYTES} bytes")
        return lines
