"""Looks a workspace over and says of each thing a fleet needs whether it is right, and what to do if not.

Every check stands alone: one that cannot be made is a problem of its own and hides no other.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from packhorse_agent.contract.base import WireDocument, sha256_hex
from packhorse_agent.contract.chunks import index_sizes
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.trustset import decode_trust_set
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.view import TrustedView
from packhorse_host.broker import BrokerKind, find_broker
from packhorse_host.broker.listening import check_port
from packhorse_host.errors import PackhorseError
from packhorse_host.fleet.database import Database
from packhorse_host.fleet.presence import controller_runs
from packhorse_host.repository import Repository
from packhorse_host.repository.standing import warnings
from packhorse_host.workspace import SETTINGS_FILE, Workspace

Verdict = Literal["good", "note", "problem"]

FREE_WANTED_BYTES = 1024**3
FREE_NEEDED_BYTES = 64 * 1024**2
"""Below it a database or a publish soon fails."""

_CONNECT_TIMEOUT_S = 5.0
_READ_BYTES = 1024 * 1024
_MEND = "`packhorse publish` of that bundle puts it back"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Check(WireDocument):
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    detail: str


def examine(folder: Path | None, now: datetime, *, deep: bool = False) -> list[Check]:
    """All checks, in the order in which a person would mend things; `deep` reads every published file."""
    try:
        workspace = Workspace.find(folder)
        repository = workspace.repository()
    except PackhorseError as error:
        return [Check(what="workspace", verdict="problem", detail=str(error))]
    looks: dict[str, Callable[[], Iterator[Check]]] = {
        "disk": lambda: _disk(workspace),
        "keys": lambda: _keys(workspace),
        "repository": lambda: _repository(workspace, repository, now, deep=deep),
        "signatures": lambda: _signatures(repository, now),
        "database": lambda: _database(workspace),
        "controller": lambda: _controller(workspace),
    }
    checks = [Check(what="workspace", verdict="good", detail=f"{workspace.folder}, fleet {workspace.fleet}")]
    for what, look in looks.items():
        try:
            checks += look()
        except (PackhorseError, OSError) as error:
            checks.append(Check(what=what, verdict="problem", detail=str(error)))
    return checks


def _disk(workspace: Workspace) -> Iterator[Check]:
    free = shutil.disk_usage(workspace.folder).free
    text = f"{free // 2**20} MiB free on the disk of {workspace.folder}"
    if free < FREE_NEEDED_BYTES:
        yield Check(what="disk", verdict="problem", detail=f"{text}: free some space")
    else:
        yield Check(what="disk", verdict="good" if free >= FREE_WANTED_BYTES else "note", detail=text)


def _keys(workspace: Workspace) -> Iterator[Check]:
    folder = workspace.keys_folder
    open_ones = [path for path in (folder, *sorted(folder.glob("*.pem"))) if path.stat().st_mode & _OTHERS]
    for path in open_ones:
        mode = "700" if path is folder else "600"
        yield Check(
            what="keys", verdict="problem", detail=f"others may use {path}: run `chmod {mode} {path}`"
        )
    if not open_ones:
        yield Check(what="keys", verdict="good", detail=f"{folder} is its owner's alone")
    roots = sorted(path.name for path in folder.glob("root-*.pem"))
    if len(roots) > 1:
        text = (
            f"{', '.join(roots)} share {folder}: whoever gets it owns the fleet; move them to separate places"
        )
        yield Check(what="root keys", verdict="note", detail=text)


def _repository(
    workspace: Workspace, repository: Repository, now: datetime, *, deep: bool
) -> Iterator[Check]:
    """The device's own verifier reads what devices are given; then every published file is looked for."""
    problems = [*_refusal(workspace, repository, now), *_broken_files(workspace, repository, deep=deep)]
    for text in problems:
        yield Check(what="repository", verdict="problem", detail=text)
    if not problems:
        bundles = f"{len(repository.releases())} bundles have all their files"
        text = f"devices accept it; {bundles}{', each with its digest' if deep else ''}"
        yield Check(what="repository", verdict="good", detail=text)


def _refusal(workspace: Workspace, repository: Repository, now: datetime) -> Iterator[str]:
    # What has expired is said by another check; here it is asked whether the rest fits together.
    oldest = min(one.expires for one in repository.standings())
    at = min(now, oldest - timedelta(seconds=1))
    with tempfile.TemporaryDirectory(prefix="packhorse-doctor-") as scratch:
        keeper = TrustKeeper(Path(scratch), repository.root_metadata(), workspace.fleet)
        files = decode_trust_set(repository.trust_set())
        try:
            outcome = keeper.offer(files, lambda sha256: _read(repository, sha256), at)
        except PackhorseError as error:
            yield f"devices refuse it: {error}"
            return
    if not isinstance(outcome, TrustedView):
        yield "devices cannot get all of its metadata"


def _read(repository: Repository, sha256: str) -> bytes | None:
    stream = repository.open_blob(sha256)
    if stream is None:
        return None
    with stream:
        return stream.read()


def _broken_files(workspace: Workspace, repository: Repository, *, deep: bool) -> Iterator[str]:
    folder = workspace.repository_folder / "blobs"
    for release in repository.releases():
        what = f"{release.model} {release.version} for {release.profile}"
        manifest = _read(repository, release.ref.sha256)
        if manifest is None or sha256_hex(manifest) != release.ref.sha256:
            yield f"{folder / release.ref.sha256}, the manifest of {what}, is missing or damaged: {_MEND}"
            continue
        for artifact in Manifest.model_validate_json(manifest).artifacts:
            sizes = (artifact.size_bytes, *index_sizes(artifact.size_bytes))
            for sha256, size_bytes in zip((artifact.sha256, *artifact.chunk_index), sizes, strict=True):
                if not _is_whole(folder / sha256, sha256, size_bytes, deep=deep):
                    yield f"{folder / sha256}, {artifact.file} of {what}, is missing or damaged: {_MEND}"


def _is_whole(path: Path, sha256: str, size_bytes: int, *, deep: bool) -> bool:
    if not path.is_file() or path.stat().st_size != size_bytes:
        return False
    if not deep:
        return True
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest() == sha256


def _signatures(repository: Repository, now: datetime) -> Iterator[Check]:
    standings = repository.standings()
    found = warnings(standings, now)
    for one in standings:
        if one.role in found:
            # An online role that ran out is mended by the controller's next start.
            verdict: Verdict = "problem" if one.expires <= now and not one.online else "note"
            yield Check(what="signatures", verdict=verdict, detail=found[one.role])
    if not found:
        first = min((one for one in standings if not one.online), key=lambda one: one.expires)
        text = f"{first.role} is the first that has to be renewed, by {first.expires:%Y-%m-%d}"
        yield Check(what="signatures", verdict="good", detail=text)


def _database(workspace: Workspace) -> Iterator[Check]:
    database = Database(workspace.database_url)
    try:
        problem = database.check()
    finally:
        database.close()
    if problem is not None:
        yield Check(what="database", verdict="problem", detail=problem)
    else:
        yield Check(what="database", verdict="good", detail="whole, and so is its audit log")


def _controller(workspace: Workspace) -> Iterator[Check]:
    runs = controller_runs(workspace)
    table = workspace.settings.broker
    where = f"{table.host} port {table.port}"
    if not runs:
        text = "none runs on this workspace: nothing is delivered until `packhorse serve` runs"
        yield Check(what="controller", verdict="note", detail=text)
    else:
        yield Check(what="controller", verdict="good", detail="it runs")
    if runs or table.kind == "external":
        yield _answers(table.advertised_host, table.port)
        return
    kind = find_broker(None if table.kind == "auto" else BrokerKind(table.kind))
    yield Check(what="broker", verdict="good", detail=f"{kind.value} can run here")
    check_port(table.host, table.port)
    yield Check(what="port", verdict="good", detail=f"{where} is free for the broker")


def _answers(host: str, port: int) -> Check:
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        advice = f"start the broker, or mend [broker] in {SETTINGS_FILE}"
        text = f"{host} port {port} cannot be reached ({error}): {advice}"
        return Check(what="broker", verdict="problem", detail=text)
    return Check(what="broker", verdict="good", detail=f"{host} port {port} answers")
