"""One document on disk that must never stop the agent from starting."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.store.durable import write_durable
from packhorse_agent.store.errors import StorageFaultError
from packhorse_agent.store.files import OS_FILES, Files

M = TypeVar("M", bound=BaseModel)

STATE_FILE_MAX_BYTES = 4 * 1024 * 1024
"""A larger state file is taken for damage."""

_log = logging.getLogger(__name__)


class StateFile(Generic[M]):
    """A pydantic document kept durably at `path`. Law: after `save(m)`, `load() == m`."""

    def __init__(self, path: Path, model: type[M], mode: int = 0o644, files: Files = OS_FILES) -> None:
        self._path = path
        self._model = model
        self._mode = mode
        self._files = files

    def load(self) -> M | None:
        """The saved document; None when there is none, or when it was unreadable and so set aside.

        An unreadable file is renamed to NAME.unreadable-N, where a person can look at it.

        Raises:
            StorageFaultError: the rights on the file forbid reading it.
        """
        try:
            if self._files.facts(self._path) is None:
                return None
            return self._model.model_validate_json(self._read())
        except StorageFaultError as error:
            if error.errno != errno.EIO:
                raise
            self._set_aside(str(error))
        except ValueError as error:
            self._set_aside(str(error))
        return None

    def save(self, document: M) -> None:
        """Replace the document on disk.

        Raises:
            StorageFullError: no space; the old document stays.
            StorageFaultError: the disk or its rights do not allow it; the old document stays.
        """
        write_durable(self._path, canonical_json(document), self._mode, self._files)

    def _read(self) -> bytes:
        handle = self._files.open(self._path)
        try:
            data = self._files.read(handle, STATE_FILE_MAX_BYTES + 1, 0)
        finally:
            self._files.close(handle)
        if len(data) > STATE_FILE_MAX_BYTES:
            raise ValueError(f"larger than {STATE_FILE_MAX_BYTES} bytes")
        return data

    def _set_aside(self, reason: str) -> None:
        taken = set(self._files.entries(self._path.parent))
        number = 1
        while f"{self._path.name}.unreadable-{number}" in taken:
            number += 1
        aside = self._path.with_name(f"{self._path.name}.unreadable-{number}")
        self._files.rename(self._path, aside)
        self._files.sync_folder(self._path.parent)
        _log.error("%s is unreadable and set aside as %s: %s", self._path, aside.name, reason)
