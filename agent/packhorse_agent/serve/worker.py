"""One worker from its start to its end, as the supervisor commands."""

from __future__ import annotations

import asyncio
import logging
import socket

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.errors import AgentError
from packhorse_agent.serve.control import ControlChannel
from packhorse_agent.serve.model import LoadedModel, load_model
from packhorse_agent.serve.protocol import (
    AskStats,
    Command,
    Drain,
    DrainedReply,
    Load,
    LoadedReply,
    LoadFailedReply,
    Probe,
    ProbedReply,
    Serve,
    ServingReply,
    StatsReply,
)
from packhorse_agent.serve.server import InferenceServer
from packhorse_agent.serve.stats import InferenceStats
from packhorse_agent.serve.thread import RuntimeThread

_log = logging.getLogger(__name__)


class OutOfTurnError(Exception):
    """A command that the worker's state does not allow: a defect in the supervisor."""


class Worker:
    """Obeys one supervisor: load, probe, serve, drain, in this order; stats at any time."""

    def __init__(self, control: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = ControlChannel(control)
        self._thread = RuntimeThread(self._loop)
        self._stats = InferenceStats()
        self._model: LoadedModel | None = None
        self._server: InferenceServer | None = None
        self._ended: asyncio.Future[ExitCode] = self._loop.create_future()
        self._drain: asyncio.Task[None] | None = None

    async def run(self) -> ExitCode:
        """Work until drained, out of order, or left alone."""
        self._channel.start(self._on_command, lambda: self._end(ExitCode.OK))
        return await self._ended

    def _on_command(self, command: Command) -> None:
        try:
            self._obey(command)
        except (OutOfTurnError, LookupError) as error:
            _log.error("%s", error)
            self._end(ExitCode.BUG)

    def _obey(self, command: Command) -> None:
        match command:
            case Load():
                self._thread.submit(lambda: _load(command), self._on_loaded)
            case Probe():
                model = self._loaded("probe")
                self._thread.submit(
                    model.probe, lambda result: self._channel.send(ProbedReply(result=result))
                )
            case Serve():
                self._serve(command)
            case Drain() if self._drain is None:
                self._drain = self._loop.create_task(self._drain_and_end(command.grace_s))
                self._drain.add_done_callback(self._on_drained)
            case Drain():
                pass
            case AskStats():
                self._channel.send(StatsReply(stats=self._stats.take()))

    def _on_loaded(self, outcome: LoadedModel | str) -> None:
        if isinstance(outcome, str):
            _log.error("%s", outcome)
            self._channel.send(LoadFailedReply(detail=outcome))
            self._end(ExitCode.BAD_INPUT)
            return
        self._model = outcome
        session, times = outcome.session, outcome.times
        self._channel.send(
            LoadedReply(
                load_ms=times.load_ms,
                first_inference_us=times.first_inference_us,
                provider=session.provider,
                notes=session.notes,
            )
        )

    def _serve(self, command: Serve) -> None:
        model = self._loaded("serve")
        if self._server is not None:
            raise OutOfTurnError("serve: it serves already")
        listeners = self._channel.take_sockets(command.listeners)
        self._server = InferenceServer(model, self._thread, self._stats, command.token)
        self._server.start(listeners)
        self._channel.send(ServingReply())

    async def _drain_and_end(self, grace_s: float) -> None:
        if self._server is not None:
            await self._server.drain(grace_s)
        self._channel.send(StatsReply(stats=self._stats.take()))
        self._channel.send(DrainedReply())

    def _on_drained(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception():
            _log.error("draining failed", exc_info=task.exception())
            self._end(ExitCode.BUG)
        self._end(ExitCode.OK)

    def _loaded(self, verb: str) -> LoadedModel:
        if self._model is None:
            raise OutOfTurnError(f"{verb}: no model is loaded")
        return self._model

    def _end(self, code: ExitCode) -> None:
        if not self._ended.done():
            self._ended.set_result(code)


def _load(command: Load) -> LoadedModel | str:
    try:
        return load_model(command)
    except AgentError as error:
        return str(error)
    except MemoryError:
        return "the model does not fit the memory that the worker may use"
    except Exception as error:  # a runtime's own failure must reach the supervisor in words
        _log.exception("the model does not load")
        return f"the model does not load: {type(error).__name__}: {error}"
