"""A real Mosquitto on a free port, stopped by its process."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import accepts_connections, free_port

_START_TRIES = 5
_START_DEADLINE_S = 10.0


def find_mosquitto() -> str | None:
    """The broker's program; Debian keeps it where only root's PATH looks."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@dataclass
class Mosquitto:
    """A broker that allows everyone, without persistence unless `extra_config` says otherwise.

    `folder` takes its configuration and log; `kill` and `start` make it restart on the same port.
    """

    folder: Path
    port: int = 0
    extra_config: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens; another port is taken when somebody was quicker."""
        fixed = self.port
        for _ in range(_START_TRIES):
            self.port = fixed or free_port()
            if self._start_once():
                return
        raise RuntimeError(f"mosquitto does not start: {self.log()[-2000:]}")

    def stop(self) -> None:
        """End it in good order."""
        self._end(kill=False)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(kill=True)

    def log(self) -> str:
        """What it has said."""
        path = self.folder / "mosquitto.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _start_once(self) -> bool:
        program = find_mosquitto()
        if program is None:
            raise RuntimeError("mosquitto is not installed")
        config = self.folder / "mosquitto.conf"
        # as root it would drop to a user that cannot read the temporary folder
        user = "user root\n" if os.geteuid() == 0 else ""
        lines = f"{user}listener {self.port} 127.0.0.1\nallow_anonymous true\n{self.extra_config}"
        config.write_text(lines)
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
        end = time.monotonic() + _START_DEADLINE_S
        while self.process.poll() is None and time.monotonic() < end:
            if accepts_connections(self.port):
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def _end(self, kill: bool) -> None:
        if self.process is None:
            return
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
