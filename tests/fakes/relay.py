"""A TCP relay between a client and a server, that a test can cut or stop."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

_READ_BYTES = 65536


class Relay:
    """Listens on a free loopback port and passes bytes on to `port`; None: takes them and says nothing."""

    def __init__(self, port: int | None) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break all connections that there are; new ones are taken."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Pass nothing on until `release`; the connections stay."""
        self._flowing.clear()

    def release(self) -> None:
        """Pass everything on again."""
        self._flowing.set()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            if self._target is None:
                self._start(client, None)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._sockets.append(server)
            self._start(client, server)
            self._start(server, client)

    def _start(self, source: socket.socket, sink: socket.socket | None) -> None:
        thread = threading.Thread(target=self._pump, args=(source, sink), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket | None) -> None:
        with contextlib.suppress(OSError), source:
            while data := source.recv(_READ_BYTES):
                self._flowing.wait()
                if sink is not None:
                    sink.sendall(data)
        if sink is not None:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)
