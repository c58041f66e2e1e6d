"""The usernames that the broker lets in, in one private file that several processes may change."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import bcrypt
from pydantic import BaseModel, ConfigDict, ValidationError

from packhorse_host.broker.entries import Credential, Role, check_username
from packhorse_host.broker.files import make_private_folder, write_private
from packhorse_host.errors import BadInputError, EnvironmentFaultError, NotFoundError

PASSWORD_MAX_BYTES: Final = 72
"""bcrypt ignores what comes after."""

_PBKDF2_ITERATIONS: Final = 1000
_BCRYPT_ROUNDS: Final = 6
# Low on purpose: passwords are random, and Mosquitto hashes in the thread that moves messages.

Stamp = tuple[int, int, int]
"""Changes whenever the file is replaced."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    credentials: tuple[Credential, ...] = ()


def generate_password() -> str:
    """A random password of 256 bits, safe in any configuration file."""
    return secrets.token_urlsafe(32)


class CredentialStore:
    """`credentials.json` in a folder: usernames, roles and password hashes; mode 0600."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "credentials.json"

    def add(self, username: str, password: str, role: Role = Role.DEVICE) -> None:
        """Let a username in; one that is there gets the new password.

        Raises:
            BadInputError: the username or the password cannot be one.
            EnvironmentFaultError: the file cannot be read or written.
        """
        added = make_credential(username, password, role)
        self._change(lambda kept: (*(one for one in kept if one.username != username), added))

    def remove(self, username: str) -> None:
        """Let a username in no longer.

        Raises:
            NotFoundError: there is none of that name.
            EnvironmentFaultError: the file cannot be read or written.
        """

        def without(kept: tuple[Credential, ...]) -> tuple[Credential, ...]:
            if all(one.username != username for one in kept):
                raise NotFoundError(f"the broker knows no {username!r}")
            return tuple(one for one in kept if one.username != username)

        self._change(without)

    def usernames(self) -> tuple[str, ...]:
        """Everyone who is let in, sorted.

        Raises:
            EnvironmentFaultError: the file cannot be read.
        """
        return tuple(one.username for one in self.credentials())

    def credentials(self) -> tuple[Credential, ...]:
        """All entries, sorted by username.

        Raises:
            EnvironmentFaultError: the file is damaged or cannot be read.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise EnvironmentFaultError(f"cannot read {self._path}: {error}") from error
        try:
            return _Document.model_validate_json(text).credentials
        except (ValidationError, BadInputError) as error:
            raise EnvironmentFaultError(
                f"{self._path} is damaged: restore it, or delete it and enroll every device again"
            ) from error

    def stamp(self) -> Stamp | None:
        """What tells one state of the file from another; None without a file."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def _change(self, change: Callable[[tuple[Credential, ...]], tuple[Credential, ...]]) -> None:
        try:
            with self._locked():
                changed = sorted(change(self.credentials()), key=lambda one: one.username)
                document = _Document(credentials=tuple(changed))
                write_private(self._path, document.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise EnvironmentFaultError(f"cannot write {self._path}: {error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_private_folder(self._folder)
        descriptor = os.open(self._folder / "credentials.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def make_credential(username: str, password: str, role: Role) -> Credential:
    """Hash a password for every kind of broker, so that a workspace can change from one to another.

    Raises:
        BadInputError: the username or the password cannot be one.
    """
    check_username(username, role)
    secret = password.encode()
    if not 1 <= len(secret) <= PASSWORD_MAX_BYTES or b"\0" in secret:
        raise BadInputError(f"a password has 1 to {PASSWORD_MAX_BYTES} bytes, none of them zero")
    return Credential(
        username=username,
        role=role,
        pbkdf2_sha512=_mosquitto_hash(secret),
        bcrypt=bcrypt.hashpw(secret, bcrypt.gensalt(_BCRYPT_ROUNDS)).decode(),
    )


def _mosquitto_hash(secret: bytes) -> str:
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", secret, salt, _PBKDF2_ITERATIONS)
    return f"$7${_PBKDF2_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
