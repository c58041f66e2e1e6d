"""The embedded broker as a whole: start, take up changed credentials, come back after a crash, stop."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Final

from packhorse_host.broker.child import Child
from packhorse_host.broker.credentials import CredentialStore, Stamp
from packhorse_host.broker.discovery import broker_program, find_broker
from packhorse_host.broker.errors import (
    BrokerCrashLoopError,
    BrokerReloadError,
    BrokerStartError,
    PortTakenError,
)
from packhorse_host.broker.files import make_private_folder, write_private
from packhorse_host.broker.flavour import Flavour
from packhorse_host.broker.listening import check_port, free_port, listens
from packhorse_host.broker.log import BrokerLog
from packhorse_host.broker.mosquitto import MOSQUITTO
from packhorse_host.broker.nats import NATS
from packhorse_host.broker.settings import BrokerKind, BrokerSettings, Endpoint

_FLAVOURS: Final = {BrokerKind.MOSQUITTO: MOSQUITTO, BrokerKind.NATS: NATS}

_START_WAIT_S: Final = 15.0
_RELOAD_WAIT_S: Final = 5.0
_STOP_GRACE_S: Final = 5.0
_PORT_WAIT_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.01
_FREE_PORT_TRIES: Final = 5

_CRASHES_MAX: Final = 5
_CRASHES_WITHIN_S: Final = 60.0


class PollResult(str, Enum):
    """What `EmbeddedBroker.poll` did."""

    UNCHANGED = "unchanged"
    RELOADED = "reloaded"
    """Credentials had changed on disk."""
    RESTARTED = "restarted"
    """It had died; retained messages of the last seconds may be gone: publish them again."""


class EmbeddedBroker:
    """One broker process on one port; a context manager. Not to be called from two threads at once."""

    def __init__(
        self,
        settings: BrokerSettings,
        credentials: CredentialStore,
        kind: BrokerKind | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kind: Final = find_broker(kind)
        self._settings = settings
        self._credentials = credentials
        self._clock_s = clock_s
        self._flavour: Flavour = _FLAVOURS[self.kind]
        self._log = BrokerLog(settings.folder / "broker.log")
        self._port = settings.port
        self._child: Child | None = None
        self._rendered: Stamp | None = None
        self._crashes: deque[float] = deque(maxlen=_CRASHES_MAX)

    @property
    def pid(self) -> int | None:
        """The process id of the broker; None before `start` and after `stop`."""
        return self._child.pid if self._child else None

    def is_running(self) -> bool:
        """Whether the broker's process is there."""
        return self._child is not None and self._child.exit_status is None

    def start(self) -> Endpoint:
        """Start the broker and return once it listens; a second call only says where.

        Raises:
            PortTakenError: another program has the port.
            BrokerStartError: it ended, or did not listen in time; the text ends with its log.
            ConfigError: a path cannot be written into its configuration.
            EnvironmentFaultError: the credentials cannot be read.
        """
        if self.is_running():
            return self._endpoint()
        try:
            if self._port:
                self._start_on(self._port)
            else:
                self._port = self._start_on_free_port()
        except BaseException:
            self._child = None
            raise
        return self._endpoint()

    def reload(self) -> None:
        """Take up added, changed and removed credentials; returns once they hold.

        Clients whose credentials did not change stay connected; removed ones are disconnected.

        Raises:
            BrokerReloadError: the broker is not running, or did not take them up.
            EnvironmentFaultError: the credentials cannot be read.
        """
        child = self._child
        if child is None or not self.is_running():
            raise BrokerReloadError("the broker is not running")
        offset = self._log.end()
        self._write_configuration(self._port)
        child.signal(signal.SIGHUP)
        deadline_s = time.monotonic() + _RELOAD_WAIT_S
        while self._flavour.reloaded not in (said := self._log.since(offset)):
            failed = self._flavour.reload_failed is not None and self._flavour.reload_failed in said
            if failed or child.wait(_LOOK_EVERY_S) or time.monotonic() > deadline_s:
                self._rendered = None
                raise BrokerReloadError(
                    f"the broker did not take up its credentials:{self._log.tail(offset)}"
                )

    def poll(self) -> PollResult:
        """Look after a started broker; call it every second or so.

        Raises:
            BrokerCrashLoopError: it died too often in the last minute.
            BrokerStartError, PortTakenError: it died and cannot be started again.
            BrokerReloadError: it did not take up changed credentials.
        """
        if self._child is None:
            return PollResult.UNCHANGED
        if not self.is_running():
            self._note_crash(self._child.exit_status)
            self._start_on(self._port)
            return PollResult.RESTARTED
        self._log.rotate()
        if self._credentials.stamp() != self._rendered:
            self.reload()
            return PollResult.RELOADED
        return PollResult.UNCHANGED

    def stop(self) -> None:
        """End the broker; it stores its state first. Nothing happens when it does not run."""
        child, self._child = self._child, None
        if child is not None:
            child.stop(_STOP_GRACE_S)

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _endpoint(self) -> Endpoint:
        return Endpoint(self._settings.host, self._port)

    def _start_on_free_port(self) -> int:
        for _ in range(_FREE_PORT_TRIES - 1):
            port = free_port(self._settings.host)
            try:
                self._start_on(port)
            except PortTakenError:
                continue
            return port
        port = free_port(self._settings.host)
        self._start_on(port)
        return port

    def _start_on(self, port: int) -> None:
        self._wait_for_port(port)
        try:
            self._write_configuration(port)
            self._log.rotate()
            offset = self._log.end()
            command = (
                str(broker_program(self.kind)),
                *self._flavour.arguments(self._settings.folder.absolute()),
            )
            child = Child(command, self._log.path)
        except OSError as error:
            raise BrokerStartError(f"cannot start {self.kind.value}: {error}") from error
        self._child = child
        try:
            self._wait_until_listening(child, port, offset)
        except BaseException:
            child.stop(_STOP_GRACE_S)
            raise

    def _wait_for_port(self, port: int) -> None:
        """A broker that was killed a moment ago may hold it still."""
        deadline_s = time.monotonic() + _PORT_WAIT_S
        while True:
            try:
                return check_port(self._settings.host, port)
            except PortTakenError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(_LOOK_EVERY_S)

    def _wait_until_listening(self, child: Child, port: int, offset: int) -> None:
        deadline_s = time.monotonic() + _START_WAIT_S
        while not listens(child.pid, port):
            if child.wait(_LOOK_EVERY_S):
                check_port(self._settings.host, port)
                raise BrokerStartError(
                    f"{self.kind.value} ended at once (status {child.exit_status}):{self._log.tail(offset)}"
                )
            if time.monotonic() > deadline_s:
                raise BrokerStartError(
                    f"{self.kind.value} does not listen after {_START_WAIT_S:.0f} s:{self._log.tail(offset)}"
                )

    def _write_configuration(self, port: int) -> None:
        folder = self._settings.folder
        make_private_folder(folder)
        stamp = self._credentials.stamp()
        for file in self._flavour.render(self._settings, port, self._credentials.credentials()):
            write_private(folder / file.name, file.text)
        self._rendered = stamp

    def _note_crash(self, status: int | None) -> None:
        now_s = self._clock_s()
        if len(self._crashes) == _CRASHES_MAX and now_s - self._crashes[0] < _CRASHES_WITHIN_S:
            raise BrokerCrashLoopError(
                f"{self.kind.value} died {_CRASHES_MAX + 1} times within a minute (status {status}):"
                f"{self._log.tail(0)}"
            )
        self._crashes.append(now_s)
