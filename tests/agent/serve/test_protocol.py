"""What supervisor and worker say to each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.manifest import ArtifactRole
from packhorse_agent.runtime.golden import failed_probe
from packhorse_agent.serve.limits import CONTROL_LINE_MAX_BYTES
from packhorse_agent.serve.protocol import (
    AskStats,
    Command,
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
    parse_command,
    parse_reply,
)

COMMANDS: list[Command] = [
    Load(slot="s", version="1", manifest_path=Path("/m"), artifacts={ArtifactRole.MODEL: Path("/a b")}),
    Probe(),
    Serve(listeners=2, token="ä\n"),
    Drain(grace_s=0.5),
    AskStats(),
]
REPLIES: list[Reply] = [
    LoadedReply(load_ms=1.5, first_inference_us=2.5, provider="CPU", notes=("a note",)),
    LoadFailedReply(detail="two\nlines"),
    ProbedReply(result=failed_probe("why", 3)),
    ServingReply(),
    DrainedReply(),
    StatsReply(
        stats=WorkerStats(
            requests=1, errors=0, rejected_requests=1, latency_us="", cpu_seconds=0.1, rss_bytes=1
        )
    ),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.kind)
def test_a_command_arrives_as_it_was_sent(command: Command) -> None:
    (line,) = LineBuffer().feed(encode_line(command))
    assert parse_command(line) == command


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: reply.kind)
def test_a_reply_arrives_as_it_was_sent(reply: Reply) -> None:
    (line,) = LineBuffer().feed(encode_line(reply))
    assert parse_reply(line) == reply


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"nonsense", b'{"kind":"dance"}', b'{"kind":"serve","listeners":99}']
)
def test_anything_else_is_malformed(line: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        parse_command(line)
    with pytest.raises(MalformedMessageError):
        parse_reply(line)


@given(
    st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=6), st.integers(1, 9)
)
def test_lines_come_out_however_they_were_split(lines: list[bytes], step: int) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    buffer = LineBuffer()
    found = [line for at in range(0, len(stream), step) for line in buffer.feed(stream[at : at + step])]
    assert found == lines


def test_a_line_without_an_end_is_bounded() -> None:
    buffer = LineBuffer()
    buffer.feed(b"x" * CONTROL_LINE_MAX_BYTES)
    with pytest.raises(MalformedMessageError):
        buffer.feed(b"x")
