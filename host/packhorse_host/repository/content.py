"""What is delivered, by digest: manifests, artifacts, their chunk indexes, and the rollouts documents."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.chunks import build_index
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.store.durable import SCRATCH_PREFIX, SCRATCH_SUFFIX, sweep_scratch, write_durable
from packhorse_agent.store.errors import storage_error
from packhorse_agent.store.files import OS_FILES, Files
from packhorse_agent.trust.errors import TamperedBundleError

_COPY_BYTES = 1024 * 1024


class ContentFolder:
    """Reads and writes `blobs/`; nothing in it ever changes."""

    def __init__(self, folder: Path, disk: Files = OS_FILES) -> None:
        self._folder = folder
        self._disk = disk

    def has(self, sha256: str) -> bool:
        """Whether a blob is here."""
        return self._path(sha256).exists()

    def is_whole(self, sha256: str) -> bool:
        """Whether a blob is here and has the content that its name says; reads all of it."""
        try:
            digest = hashlib.sha256()
            for part in _parts(self._path(sha256)):
                digest.update(part)
        except EnvironmentFaultError:
            return False
        return digest.hexdigest() == sha256

    def open(self, sha256: str) -> BinaryIO | None:
        """A blob as a stream; None when it is not here.

        Raises:
            OSError: it cannot be read now.
        """
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            return None

    def add_bytes(self, data: bytes) -> bool:
        """Write a small blob durably; False when it was here."""
        sha256 = sha256_hex(data)
        if self.has(sha256):
            return False
        write_durable(self._path(sha256), data, files=self._disk)
        return True

    def add_file(self, source: Path, sha256: str) -> bool:
        """Copy a file in durably; False when it was here. What is copied is what is compared.

        Raises:
            TamperedBundleError: the file changed after it was verified.
            StorageFullError, StorageFaultError: it could not be copied.
        """
        if self.has(sha256):
            return False
        target = self._path(sha256)
        scratch = target.with_name(f"{SCRATCH_PREFIX}{sha256}{SCRATCH_SUFFIX}")
        try:
            if self._copy(source, scratch) != sha256:
                raise TamperedBundleError(f"{source} changed while it was published")
            self._disk.rename(scratch, target)
        except Exception:
            self._disk.remove(scratch)
            raise
        self._disk.sync_folder(self._folder)
        return True

    def remove(self, sha256: str) -> None:
        """Forget a blob; one that is not here is no error."""
        self._disk.remove(self._path(sha256))

    def sweep(self) -> None:
        """Remove what a killed writer left; only for who holds the writers' lock."""
        sweep_scratch(self._folder, self._disk)

    def _copy(self, source: Path, scratch: Path) -> str:
        digest = hashlib.sha256()
        offset = 0
        handle = self._disk.create(scratch, 0o644)
        try:
            for part in _parts(source):
                self._disk.write(handle, part, offset)
                digest.update(part)
                offset += len(part)
            self._disk.sync(handle)
        finally:
            self._disk.close(handle)
        return digest.hexdigest()

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256


def index_levels(data: bytes) -> tuple[bytes, ...]:
    """The chunk index of a small blob, lowest level first; empty for one chunk."""
    chunks = (data[at : at + CHUNK_SIZE_BYTES] for at in range(0, len(data), CHUNK_SIZE_BYTES))
    return build_index(hashlib.sha256(chunk).digest() for chunk in chunks)


def index_digests(data: bytes) -> Sequence[str]:
    """SHA-256 of each level of `index_levels`."""
    return [sha256_hex(level) for level in index_levels(data)]


def in_memory(data: bytes) -> BinaryIO:
    """A small blob as a stream."""
    return io.BytesIO(data)


def _parts(source: Path) -> Iterator[bytes]:
    try:
        with source.open("rb") as file:
            while part := file.read(_COPY_BYTES):
                yield part
    except OSError as error:
        raise storage_error(error, str(source)) from error
