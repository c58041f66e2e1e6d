"""A workspace: all that belongs to one fleet on the host, in one folder.

::

    packhorse.toml      settings, for people
    repository/         TUF metadata and blobs: public, what devices may pull
    keys/               private keys, 0600; move the root keys somewhere else once they are made
    broker/             the embedded broker's files
    database.sqlite     devices, rollouts, telemetry
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from packhorse_agent.contract.base import HumanDocument, Name
from packhorse_agent.store.durable import write_durable
from packhorse_agent.store.errors import storage_error
from packhorse_agent.store.files import OS_FILES
from packhorse_agent.toml_files import read_toml
from packhorse_agent.trust.clock import utc_now
from packhorse_host.errors import ConfigError, ConflictError, NotFoundError
from packhorse_host.repository.founding import KeyPlan
from packhorse_host.repository.keyring import KeyRing
from packhorse_host.repository.repository import Repository

SETTINGS_FILE = "packhorse.toml"
WORKSPACE_VARIABLE = "PACKHORSE_WORKSPACE"
DEFAULT_PORT = 1883

_FLEET: TypeAdapter[str] = TypeAdapter(Name)


class TlsTable(HumanDocument):
    """`[broker.tls]`: PEM files, relative to the workspace."""

    certificate_file: str | None = None
    """The embedded broker's own, with its key."""
    key_file: str | None = None
    ca_file: str | None = None
    """What devices and controller check the broker with; None: the broker's certificate itself."""
    require_client_certificate: bool = False
    client_certificate_file: str | None = None
    """The controller's own, with its key, for a broker that requires one."""
    client_key_file: str | None = None

    @property
    def trusted_file(self) -> str:
        """What the broker is checked with.

        Raises:
            ConfigError: neither an authority nor a certificate is named.
        """
        trusted = self.ca_file or self.certificate_file
        if trusted is None:
            raise ConfigError(f"[broker.tls] in {SETTINGS_FILE} needs certificate_file or ca_file")
        return trusted


class BrokerTable(HumanDocument):
    """`[broker]`: which broker, where it listens, and under which name devices reach it."""

    kind: Literal["auto", "mosquitto", "nats", "external"] = "auto"
    """auto: the best embedded one that is installed; external: one that runs by itself."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    public_host: str | None = None
    username: str | None = None
    """With an external broker: the controller's account; its password is in `password_file`."""
    password_file: str | None = None
    tls: TlsTable | None = None

    @property
    def advertised_host(self) -> str:
        """What devices connect to."""
        return self.public_host or self.host


class DatabaseTable(HumanDocument):
    """`[database]`: an SQLAlchemy address; None: SQLite in the workspace."""

    url: str | None = None


class DeliveryTable(HumanDocument):
    """`[delivery]`: how fast chunks are sent, over all devices together; None: as fast as can be."""

    rate_limit_bytes_per_s: Annotated[float, Field(gt=0)] | None = None


class WorkspaceSettings(HumanDocument):
    """`packhorse.toml`."""

    fleet: Name
    broker: BrokerTable = BrokerTable()
    database: DatabaseTable = DatabaseTable()
    delivery: DeliveryTable = DeliveryTable()


class Workspace:
    """An open workspace; make one with `create`, get one with `open` or `find`."""

    def __init__(self, folder: Path, settings: WorkspaceSettings) -> None:
        self.folder = folder
        self.settings = settings

    @classmethod
    def create(
        cls,
        folder: Path,
        fleet: str,
        plan: KeyPlan,
        port: int = DEFAULT_PORT,
        clock: Callable[[], datetime] = utc_now,
    ) -> Workspace:
        """Make a workspace: keys, repository, settings. It appears whole or not at all.

        Raises:
            ConfigError: the fleet's name or the port cannot be one.
            ConflictError: there is something in the folder already.
            StorageFullError, StorageFaultError: the disk does not take it.
        """
        settings = check_new(folder, fleet, port)
        whole = folder.absolute()
        scratch = whole.with_name(f".{whole.name}.{secrets.token_hex(4)}.new")
        try:
            scratch.mkdir(parents=True)
            _fill(cls(scratch, settings), plan, clock)
            scratch.replace(whole)
            OS_FILES.sync_folder(whole.parent)
        except OSError as error:
            raise storage_error(error, str(folder)) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return cls(whole, settings)

    @classmethod
    def open(cls, folder: Path) -> Workspace:
        """The workspace in `folder`.

        Raises:
            NotFoundError: it holds none.
            ConfigError: its settings cannot be read.
        """
        if not (folder / SETTINGS_FILE).is_file():
            raise NotFoundError(
                f"{folder} is no workspace: it holds no {SETTINGS_FILE}; see `packhorse init`"
            )
        return cls(folder.absolute(), read_toml(folder / SETTINGS_FILE, WorkspaceSettings))

    @classmethod
    def find(
        cls, folder: Path | None, start: Path | None = None, environment: Mapping[str, str] = os.environ
    ) -> Workspace:
        """The workspace in `folder`, else in $PACKHORSE_WORKSPACE, else around `start` (the current folder).

        Raises:
            NotFoundError: there is none.
            ConfigError: its settings cannot be read.
        """
        named = folder or environment.get(WORKSPACE_VARIABLE)
        if named:
            return cls.open(Path(named))
        here = (start or Path.cwd()).absolute()
        for around in (here, *here.parents):
            if (around / SETTINGS_FILE).is_file():
                return cls.open(around)
        raise NotFoundError(
            f"no workspace around {here}: name one with `--workspace` or make one with `packhorse init`"
        )

    @property
    def fleet(self) -> str:
        """The fleet's name."""
        return self.settings.fleet

    @property
    def broker_folder(self) -> Path:
        """Where the embedded broker keeps its files."""
        return self.folder / "broker"

    @property
    def repository_folder(self) -> Path:
        """Where the TUF repository is."""
        return self.folder / "repository"

    @property
    def keys_folder(self) -> Path:
        """Where the private keys are."""
        return self.folder / "keys"

    @property
    def database_url(self) -> str:
        """SQLAlchemy's address of the database."""
        return self.settings.database.url or f"sqlite:///{self.folder / 'database.sqlite'}"

    def repository(
        self, clock: Callable[[], datetime] = utc_now, keys_elsewhere: Sequence[Path] = ()
    ) -> Repository:
        """The fleet's repository, with the keys of this workspace and those that lie elsewhere."""
        keys = KeyRing(self.keys_folder, elsewhere=keys_elsewhere)
        return Repository(self.repository_folder, keys, self.fleet, clock)

    def broker_ca_pem(self) -> str | None:
        """What devices check the broker's certificate with; None without TLS.

        Raises:
            ConfigError: the file cannot be read.
        """
        tls = self.settings.broker.tls
        if tls is None:
            return None
        path = self.folder / tls.trusted_file
        try:
            return path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}, named in {SETTINGS_FILE}, cannot be read: {error}") from error


def check_new(folder: Path, fleet: str, port: int) -> WorkspaceSettings:
    """The settings of a workspace that can be made, before anybody is asked for a passphrase.

    Raises:
        ConfigError: the fleet's name or the port cannot be one.
        ConflictError: there is something in the folder already.
    """
    try:
        _FLEET.validate_python(fleet)
    except ValidationError as error:
        text = f"{fleet!r} cannot name a fleet: lower-case letters, digits, '.', '_', '-', at most 63"
        raise ConfigError(text) from error
    if not 1 <= port <= 65535:
        raise ConfigError(f"a port is a number from 1 to 65535, not {port}")
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConflictError(f"{folder} is not empty; a workspace gets a folder of its own")
    return WorkspaceSettings(fleet=fleet, broker=BrokerTable(port=port))


def _fill(workspace: Workspace, plan: KeyPlan, clock: Callable[[], datetime]) -> None:
    workspace.keys_folder.mkdir(mode=0o700)
    workspace.broker_folder.mkdir(mode=0o700)
    workspace.repository_folder.mkdir()
    workspace.repository(clock).found(plan)
    write_durable(workspace.folder / SETTINGS_FILE, _settings_text(workspace.settings).encode())


def _settings_text(settings: WorkspaceSettings) -> str:
    return f"""\
fleet = "{settings.fleet}"

[broker]
kind = "{settings.broker.kind}"             # auto, mosquitto, nats, or external: one that runs by itself
host = "{settings.broker.host}"        # 0.0.0.0 lets other machines in: set up [broker.tls] first
port = {settings.broker.port}
# public_host = "fleet.example"  # under which devices reach it, when that is not `host`

# [broker.tls]
# certificate_file = "broker/tls.crt"
# key_file = "broker/tls.key"

[database]
# url = "postgresql://..."      # else SQLite in this folder

[delivery]
# rate_limit_bytes_per_s = 1000000
"""
