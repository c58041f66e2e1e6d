"""Content by its SHA-256: whole blobs, partial ones, and a budget for both.

Under the root: `blobs/SHA256` whole, `partial/SHA256/` on the way in, `indexes/SHA256` the chunk digests of a
whole blob of more than one chunk (a hint for `reusable`: never trusted, so its loss costs only a download).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.chunks import DIGEST_BYTES, chunk_count
from packhorse_agent.errors import BadInputError, ConflictError, NotFoundError
from packhorse_agent.store.durable import remove_durable, sweep_scratch, write_durable
from packhorse_agent.store.errors import DigestMismatchError
from packhorse_agent.store.files import OS_FILES, Files
from packhorse_agent.store.partial import DATA_FILE, PartialBlob, PartialPlan, remove_partial
from packhorse_agent.store.reuse import reusable_chunks

HEADROOM_BYTES = 4 * 1024 * 1024
"""Stays free beside every download, so that state can always be written."""

_READ_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PartialFacts:
    """A partial blob on disk, open or not."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, order=True)
class _Stored:
    whole: bool
    modified_ns: int
    sha256: str
    size_bytes: int


class BlobStore:
    """Blobs under one root folder, for one process (see `FolderLock`) and one thread."""

    def __init__(self, root: Path, files: Files = OS_FILES, headroom_bytes: int = HEADROOM_BYTES) -> None:
        """Make the folders, and clean up what a kill left half done.

        Raises:
            StorageFullError: no space for the folders.
            StorageFaultError: the disk or its rights do not allow it.
        """
        self._files = files
        self._headroom_bytes = headroom_bytes
        self._blobs = root / "blobs"
        self._partial = root / "partial"
        self._indexes = root / "indexes"
        self._open: set[str] = set()
        for folder in (self._blobs, self._partial, self._indexes):
            files.make_folder(folder)
        files.sync_folder(root)
        self._clean_up()

    def has(self, sha256: str) -> bool:
        """Whether the blob is here, whole."""
        return self._files.facts(self._place(sha256)) is not None

    def path(self, sha256: str) -> Path:
        """Where the blob is.

        Raises:
            NotFoundError: not here, or not whole yet.
        """
        if not self.has(sha256):
            raise NotFoundError(f"blob {sha256} is not in the store")
        return self._place(sha256)

    def read(self, sha256: str, max_bytes: int) -> bytes:
        """A small blob's content, its digest checked.

        Raises:
            NotFoundError: not here.
            BadInputError: larger than `max_bytes`.
            DigestMismatchError: damaged on disk; it is removed, so that it is fetched again.
        """
        handle = self._files.open(self.path(sha256))
        try:
            data = self._files.read(handle, max_bytes + 1, 0)
        finally:
            self._files.close(handle)
        if len(data) > max_bytes:
            raise BadInputError(f"blob {sha256} is larger than {max_bytes} bytes")
        if sha256_hex(data) != sha256:
            self._damaged(sha256)
        return data

    def verify(self, sha256: str) -> None:
        """Read the whole blob and check its digest.

        Raises:
            NotFoundError: not here.
            DigestMismatchError: damaged on disk; it is removed, so that it is fetched again.
        """
        handle = self._files.open(self.path(sha256))
        whole, offset = hashlib.sha256(), 0
        try:
            while part := self._files.read(handle, _READ_BYTES, offset):
                whole.update(part)
                offset += len(part)
        finally:
            self._files.close(handle)
        if whole.hexdigest() != sha256:
            self._damaged(sha256)

    def add_bytes(self, data: bytes) -> str:
        """Store a small blob durably; returns its SHA-256.

        Raises:
            StorageFullError: no space; nothing was stored.
        """
        sha256 = sha256_hex(data)
        if not self.has(sha256):
            write_durable(self._place(sha256), data, files=self._files)
        return sha256

    def remove(self, sha256: str) -> None:
        """Remove a whole blob; one that is not here is no error."""
        remove_durable(self._place(sha256), self._files)
        self._files.remove(self._indexes / sha256)

    def open_partial(self, sha256: str, size_bytes: int, digests: bytes | None = None) -> PartialBlob:
        """Begin or resume a blob; its space is reserved before this returns.

        `digests` are the SHA-256 of its raw chunks, 32 bytes each (its lowest index level); a blob of one
        chunk needs none.

        Raises:
            BadInputError: `digests` do not fit the size, or `sha256` is not a digest.
            ConflictError: it is open already, or here as a whole.
            StorageFullError: no space; nothing is left behind.
        """
        if digests is None:
            digests = bytes.fromhex(sha256)
        if size_bytes < 1 or len(digests) != chunk_count(size_bytes) * DIGEST_BYTES:
            raise BadInputError(
                f"{len(digests)} bytes of chunk digests do not fit a blob of {size_bytes} bytes"
            )
        if sha256 in self._open or self.has(sha256):
            raise ConflictError(f"blob {sha256} is being fetched already, or is here")
        plan = PartialPlan(sha256, size_bytes, digests, self._partial / sha256, self._headroom_bytes)
        partial = PartialBlob(plan, self._files, self._keep, self._open.discard)
        self._open.add(sha256)
        return partial

    def partials(self) -> list[PartialFacts]:
        """Partial blobs on disk, by name."""
        return [PartialFacts(entry.sha256, entry.size_bytes) for entry in self._partial_entries()]

    def discard_partial(self, sha256: str) -> None:
        """Remove a partial blob that is not open; one that is not here is no error.

        Raises:
            ConflictError: it is open.
        """
        if sha256 in self._open:
            raise ConflictError(f"blob {sha256} is being fetched")
        remove_partial(self._place(sha256, self._partial), self._files)

    def reusable(self, digests: bytes, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """Chunks numbered `wanted` of a blob with these chunk digests that some whole blob here holds.

        Yields number and raw chunk, checked; lazily, so that the caller decides how much to do at a time.
        """
        return reusable_chunks(self._indexes, self._blobs, digests, wanted, self._files)

    def size_bytes(self) -> int:
        """All blobs, whole and partial (with their reserved space), in bytes."""
        return sum(entry.size_bytes for entry in self._entries())

    def collect(self, keep: Collection[str], budget_bytes: int) -> list[str]:
        """Remove until at most `budget_bytes` remain: abandoned partial blobs first, then oldest first.

        What is in `keep` or being fetched stays, even if that exceeds the budget. Returns what was removed.
        """
        entries = sorted(self._entries())
        excess_bytes = sum(entry.size_bytes for entry in entries) - budget_bytes
        removed: list[str] = []
        for entry in entries:
            if excess_bytes <= 0:
                break
            if entry.sha256 in keep or entry.sha256 in self._open:
                continue
            if entry.whole:
                self.remove(entry.sha256)
            else:
                self.discard_partial(entry.sha256)
            excess_bytes -= entry.size_bytes
            removed.append(entry.sha256)
        return removed

    def _place(self, sha256: str, folder: Path | None = None) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise BadInputError(f"not a SHA-256 digest: {sha256!r}")
        return (folder or self._blobs) / sha256

    def _keep(self, plan: PartialPlan, data: Path) -> Path:
        if len(plan.digests) > DIGEST_BYTES:
            write_durable(self._indexes / plan.sha256, plan.digests, files=self._files)
        path = self._blobs / plan.sha256
        self._files.rename(data, path)
        self._files.sync_folder(self._blobs)
        return path

    def _damaged(self, sha256: str) -> None:
        self.remove(sha256)
        raise DigestMismatchError(
            f"blob {sha256} was damaged on disk; it is removed and has to be fetched again"
        )

    def _clean_up(self) -> None:
        sweep_scratch(self._blobs, self._files)
        sweep_scratch(self._indexes, self._files)
        whole = set(self._files.entries(self._blobs))
        for name in self._files.entries(self._indexes):
            if name not in whole:
                self._files.remove(self._indexes / name)
        for name in self._files.entries(self._partial):
            if name in whole or self._files.facts(self._partial / name / DATA_FILE) is None:
                remove_partial(self._partial / name, self._files)

    def _entries(self) -> list[_Stored]:
        whole = [
            _Stored(True, facts.modified_ns, name, facts.size_bytes)
            for name in self._files.entries(self._blobs)
            if _SHA256.fullmatch(name) and (facts := self._files.facts(self._blobs / name))
        ]
        return whole + self._partial_entries()

    def _partial_entries(self) -> list[_Stored]:
        return [
            _Stored(False, facts.modified_ns, name, facts.size_bytes)
            for name in self._files.entries(self._partial)
            if _SHA256.fullmatch(name) and (facts := self._files.facts(self._partial / name / DATA_FILE))
        ]
