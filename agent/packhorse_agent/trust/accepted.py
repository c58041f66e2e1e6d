"""What was accepted, kept durably: the files by digest, and one small document that names them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from packhorse_agent.contract.base import Sha256Hex, WireDocument, sha256_hex
from packhorse_agent.store.durable import write_durable
from packhorse_agent.store.errors import storage_error
from packhorse_agent.store.files import OS_FILES, Files
from packhorse_agent.store.state_file import StateFile
from packhorse_agent.trust.session import ROOT_FILE, SCRATCH_PREFIX, TIMESTAMP_FILE

_NEEDED = {ROOT_FILE, TIMESTAMP_FILE}

_log = logging.getLogger(__name__)


class _Pointer(WireDocument):
    """Replaced in one rename: this is the moment at which metadata becomes the accepted one."""

    format: Literal[1] = 1
    anchor_sha256: Sha256Hex
    checked_at: datetime
    files: dict[str, Sha256Hex]


@dataclass(frozen=True)
class Accepted:
    """Verified metadata (unversioned file names) and signed documents (`targets/PATH`)."""

    files: Mapping[str, bytes]
    checked_at: datetime
    """When it was verified; aware."""


class AcceptedStore:
    """Keeps one `Accepted` for one trust anchor. A kill at any point leaves the old one or the new one."""

    def __init__(self, folder: Path, anchor_sha256: str, disk: Files = OS_FILES) -> None:
        disk.make_folder(folder / "files")
        self._folder = folder
        self._anchor_sha256 = anchor_sha256
        self._disk = disk
        self._pointer = StateFile(folder / "accepted.json", _Pointer, files=disk)
        for left in folder.glob(f"{SCRATCH_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)

    def load(self) -> Accepted | None:
        """What was saved last; None when there is nothing, it is damaged, or another root is the anchor."""
        pointer = self._pointer.load()
        if pointer is None or pointer.checked_at.tzinfo is None or not pointer.files.keys() >= _NEEDED:
            return None
        if pointer.anchor_sha256 != self._anchor_sha256:
            _log.warning("the device was enrolled with another root: metadata accepted before is dropped")
            return None
        files: dict[str, bytes] = {}
        for name, sha256 in pointer.files.items():
            data = self._read(sha256)
            if data is None:
                _log.error("accepted metadata is damaged (%s): it will be taken in anew", name)
                return None
            files[name] = data
        return Accepted(files, pointer.checked_at)

    def save(self, accepted: Accepted) -> None:
        """Replace what was saved.

        Raises:
            StorageFullError, StorageFaultError: it could not be kept; the old one stays.
        """
        digests = {name: sha256_hex(data) for name, data in accepted.files.items()}
        for name, sha256 in digests.items():
            if self._read(sha256) is None:
                write_durable(self._path(sha256), accepted.files[name], files=self._disk)
        self._pointer.save(
            _Pointer(anchor_sha256=self._anchor_sha256, checked_at=accepted.checked_at, files=digests)
        )
        self._collect(frozenset(digests.values()))

    def _read(self, sha256: str) -> bytes | None:
        try:
            data = self._path(sha256).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, str(self._path(sha256))) from error
        return data if sha256_hex(data) == sha256 else None

    def _collect(self, keep: frozenset[str]) -> None:
        for name in self._disk.entries(self._folder / "files"):
            if name not in keep:
                self._disk.remove(self._folder / "files" / name)

    def _path(self, sha256: str) -> Path:
        return self._folder / "files" / sha256
