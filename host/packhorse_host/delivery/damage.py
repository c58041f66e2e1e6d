"""Notices blobs that are damaged on the host's own disk, by what devices have to ask for again."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.chunks import chunk_size, digest_at
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_host.delivery.signed import SignedBlob
from packhorse_host.delivery.source import BlobSource
from packhorse_host.errors import PackhorseError

ASKED_MAX_BYTES = 16 * 1024 * 1024
"""What is remembered of requests: a byte a chunk, for each device that asked; the oldest go first."""

_log = logging.getLogger(__name__)

FindSigned = Callable[[str], SignedBlob | None]


class AskedChunks:
    """Remembers which chunks each device asked for."""

    def __init__(self) -> None:
        self._flags: OrderedDict[tuple[str, str], bytearray] = OrderedDict()
        self._size_bytes = 0

    def again(self, device_id: str, sha256: str, indexes: Iterable[int]) -> list[int]:
        """Which of the chunks the device asked for before."""
        flags = self._flags.get((device_id, sha256), b"")
        return [index for index in indexes if index < len(flags) and flags[index]]

    def note(self, device_id: str, sha256: str, indexes: Sequence[int], chunks: int) -> None:
        """The device asked for some of a blob's `chunks` chunks."""
        key = (device_id, sha256)
        if len(self._flags.get(key, b"")) != chunks:
            self._size_bytes += chunks - len(self._flags.get(key, b""))
            self._flags[key] = bytearray(chunks)
        flags = self._flags[key]
        for index in indexes:
            flags[index] = 1
        self._flags.move_to_end(key)
        while self._size_bytes > ASKED_MAX_BYTES and len(self._flags) > 1:
            self._size_bytes -= len(self._flags.popitem(last=False)[1])


class DamageWatch:
    """Holds chunks against the signed index, and remembers which blobs turned out damaged.

    A damaged blob is looked at again whenever it is asked for, so that mending the file is enough.
    """

    def __init__(self, source: BlobSource, find_signed: FindSigned) -> None:
        self._source = source
        self._find_signed = find_signed
        self._damaged: dict[str, frozenset[int]] = {}

    def is_damaged(self, sha256: str, suspects: Iterable[int]) -> bool:
        """Whether one of the chunks is not what was signed, or the file has a wrong size.

        False where nothing is signed about the blob, or where that cannot be told now.
        """
        looked_at = self._damaged.get(sha256, frozenset()).union(suspects)
        try:
            found = self._look(sha256, looked_at)
        except (OSError, PackhorseError) as error:
            _log.warning("blob %s cannot be checked: %s", sha256, error)
            return sha256 in self._damaged
        if found is None:
            if self._damaged.pop(sha256, None) is not None:
                _log.info("blob %s is whole again", sha256)
            return False
        signed, problem = found
        if sha256 not in self._damaged:
            _log.error("%s is damaged: %s. %s", signed.file, problem, _advice(signed))
        self._damaged[sha256] = looked_at
        return True

    def suspects(self, sha256: str) -> bool:
        """Whether the blob was damaged when it was last looked at."""
        return sha256 in self._damaged

    def _look(self, sha256: str, indexes: Iterable[int]) -> tuple[SignedBlob, str] | None:
        signed = self._find_signed(sha256)
        if signed is None:
            return None
        stream = self._source.open_blob(sha256)
        if stream is None:
            return None
        with stream:
            problem = self._problem(signed, stream, indexes)
        return (signed, problem) if problem else None

    def _problem(self, signed: SignedBlob, stream: BinaryIO, indexes: Iterable[int]) -> str:
        size_bytes = stream.seek(0, os.SEEK_END)
        if size_bytes != signed.size_bytes:
            return f"it has {size_bytes} bytes where {signed.size_bytes} were signed"
        if not signed.chunk_index:
            stream.seek(0)
            whole = sha256_hex(stream.read(signed.size_bytes))
            return "" if whole == signed.sha256 else "its content is not what was signed"
        digests = self._index(signed.chunk_index[0])
        for index in sorted(indexes) if digests else ():
            stream.seek(index * CHUNK_SIZE_BYTES)
            raw = stream.read(chunk_size(size_bytes, index))
            if sha256_hex(raw) != digest_at(digests, index):
                return f"chunk {index} is not what was signed"
        return ""

    def _index(self, sha256: str) -> bytes:
        """The digests of the chunks; empty when they are missing or damaged themselves."""
        stream = self._source.open_blob(sha256)
        if stream is None:
            return b""
        with stream:
            digests = stream.read()
        return digests if sha256_hex(digests) == sha256 else b""


def _advice(signed: SignedBlob) -> str:
    return (
        "Devices that ask for it are told that it cannot be had, and fail. Publish the same bundle again, "
        f"which puts it back, or restore {signed.file.name} from a copy; then `packhorse rollout resume`"
    )
