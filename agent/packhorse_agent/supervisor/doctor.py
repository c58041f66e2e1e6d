"""Looks a device over and says, for each thing that it needs, whether it is right and what to do if not."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from packhorse_agent.config import AgentConfig, load_config, load_configured_profile
from packhorse_agent.contract.base import WireDocument, version_key
from packhorse_agent.contract.profile import Profile
from packhorse_agent.control import CONTROL_SOCKET, ControlRequest, ask
from packhorse_agent.deploy.listeners import PortTakenError, listen_tcp
from packhorse_agent.errors import AgentError
from packhorse_agent.machine import machine_facts
from packhorse_agent.measure.power import Unavailable, probe
from packhorse_agent.profiles import check_hardware, detect_profile
from packhorse_agent.runtime.installed import installed_runtimes
from packhorse_agent.supervisor.identity import load_identity

_CONNECT_TIMEOUT_S = 5.0
_ROOT = Path("/")


class Check(WireDocument):
    """One thing that was looked at."""

    what: str
    verdict: Literal["good", "note", "problem"]
    detail: str


def examine(config_path: Path) -> list[Check]:
    """All checks, in the order in which a person would mend things."""
    try:
        config = load_config(config_path)
        profile = load_configured_profile(config)
    except AgentError as error:
        return [Check(what="configuration", verdict="problem", detail=str(error))]
    checks = [Check(what="configuration", verdict="good", detail=str(config_path))]
    checks += [_profile(config, profile), *_runtimes(profile), _storage(config, profile)]
    checks += [*_enrolment(config), *_ports(config), *_power(profile)]
    return checks


def _profile(config: AgentConfig, profile: Profile) -> Check:
    problem = check_hardware(profile, machine_facts())
    if problem and config.simulate_hardware:
        return Check(what="profile", verdict="note", detail=f"{problem}; simulate_hardware waives it")
    if problem:
        return Check(what="profile", verdict="problem", detail=problem)
    detected = detect_profile()
    if detected not in (None, profile.name):
        text = f"{profile.name} is configured, this machine looks like {detected}"
        return Check(what="profile", verdict="note", detail=text)
    return Check(what="profile", verdict="good", detail=profile.name)


def _runtimes(profile: Profile) -> Iterator[Check]:
    installed = installed_runtimes()
    usable = False
    for runtime in profile.runtimes:
        have = installed.get(runtime.name)
        what = f"runtime {runtime.name}"
        if have is None:
            yield Check(what=what, verdict="note", detail=f"not installed; install packhorse[{runtime.name}]")
        elif version_key(have) < version_key(runtime.minimum_version):
            yield Check(what=what, verdict="note", detail=f"{have} is below {runtime.minimum_version}")
        else:
            usable = True
            yield Check(what=what, verdict="good", detail=have)
    if not usable:
        yield Check(what="runtimes", verdict="problem", detail="none of the profile's runtimes can be used")


def _storage(config: AgentConfig, profile: Profile) -> Check:
    folder = config.state_folder
    if not folder.exists():
        text = f"{folder} does not exist yet; `packhorse-agent request` makes it"
        return Check(what="storage", verdict="note", detail=text)
    free, budget = shutil.disk_usage(folder).free, config.storage_budget_bytes(profile)
    text = f"{free // 2**20} MiB free, the budget is {budget // 2**20} MiB"
    return Check(what="storage", verdict="good" if free >= budget else "note", detail=text)


def _enrolment(config: AgentConfig) -> Iterator[Check]:
    try:
        identity = load_identity(config.state_folder)
    except AgentError as error:
        yield Check(what="enrolment", verdict="problem", detail=str(error))
        return
    yield Check(what="enrolment", verdict="good", detail=f"{identity.device_id} of {identity.fleet}")
    broker = identity.enrolment.broker
    host, port = config.mqtt.host or broker.host, config.mqtt.port or broker.port
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        text = f"{host}:{port} cannot be reached: {error}; is `packhorse serve` up?"
        yield Check(what="broker", verdict="problem", detail=text)
    else:
        yield Check(what="broker", verdict="good", detail=f"{host}:{port} answers")


def _ports(config: AgentConfig) -> Iterator[Check]:
    """Whether each slot gets its HTTP port; what the agent that runs here has already is right."""
    serving = _running_ports(config)
    for slot, settings in config.slots.items():
        if settings.http is None:
            continue
        host, port = settings.http
        what = f"port of slot {slot}"
        if port == 0:
            yield Check(what=what, verdict="good", detail=f"{host}, a free port at each start")
        elif serving.get(slot) == port:
            yield Check(what=what, verdict="good", detail=f"{host}:{port}, this device's agent listens there")
        else:
            yield _try_port(what, slot, host, port)


def _try_port(what: str, slot: str, host: str, port: int) -> Check:
    try:
        listen_tcp(slot, host, port).close()
    except PortTakenError as error:
        return Check(what=what, verdict="problem", detail=f"{_plain(error, slot)}{_holders(port)}")
    except AgentError as error:
        return Check(what=what, verdict="problem", detail=str(error))
    return Check(what=what, verdict="good", detail=f"{host}:{port} is free")


def _plain(error: AgentError, slot: str) -> str:
    """The error's text without the slot's name, which stands beside it."""
    return str(error).removeprefix(f"slot {slot}: ")


def _running_ports(config: AgentConfig) -> dict[str, int | None]:
    """The TCP port of each slot of the agent that runs on this state folder; empty when none answers."""
    try:
        status = ask(config.state_folder / CONTROL_SOCKET, ControlRequest(command="status"))
        return {slot["slot"]: urlsplit(str(slot["endpoint"])).port for slot in status["slots"]}
    except (AgentError, LookupError, TypeError, ValueError):
        return {}


def _holders(port: int) -> str:
    """Who listens on a port, in words; empty where the system does not tell this user."""
    import psutil

    try:
        held = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        pids = sorted({one.pid for one in held if one.laddr and one.laddr.port == port and one.pid})
        named = [f"{psutil.Process(pid).name()} (process {pid})" for pid in pids]
    except (psutil.Error, OSError):
        return ""
    return f"; it is {', '.join(named)}" if named else ""


def _power(profile: Profile) -> Iterator[Check]:
    if not profile.power_sources:
        yield Check(what="power", verdict="note", detail=f"profile {profile.name} names no power source")
    for source in profile.power_sources:
        found = probe(_ROOT, source)
        what = f"power source {source.kind.value}"
        if isinstance(found, Unavailable):
            yield Check(what=what, verdict="note", detail=found.reason)
        else:
            yield Check(what=what, verdict="good", detail=found.source)
