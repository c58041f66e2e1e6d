"""Where chunks come from, with the last ones kept ready: a fleet asks for the same ones at the same time."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from packhorse_agent.contract.chunks import Chunk, chunk_count, chunk_size, encode_chunk
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES

OPEN_BLOBS_MAX = 16
FRAMES_KEPT_MAX = 64
"""4 MiB."""

UNTRIED_MAX_CHUNKS = 16
"""How much of a blob that does not deflate goes out without another try: 1 MiB."""


class BlobSource(Protocol):
    """What the server can hand out."""

    def open_blob(self, sha256: str) -> BinaryIO | None:
        """The blob as a seekable stream, which the caller closes; None when there is none.

        Raises:
            OSError: it cannot be read now.
        """


@dataclass
class _OpenBlob:
    stream: BinaryIO
    size_bytes: int
    untried: int = 0
    """Chunks that go out before deflating is tried again."""
    patience: int = 1

    def frame(self, chunk: Chunk) -> bytes:
        """Frame a chunk; each try that does not shrink it doubles the number of those not tried."""
        if self.untried:
            self.untried -= 1
            return encode_chunk(chunk, deflate=False)
        frame = encode_chunk(chunk)
        shrunk = len(frame) < len(chunk.raw)
        self.patience = 1 if shrunk else min(2 * self.patience, UNTRIED_MAX_CHUNKS)
        self.untried = 0 if shrunk else self.patience
        return frame


class FrameReader:
    """Reads chunks of a source's blobs and frames them."""

    def __init__(self, source: BlobSource) -> None:
        self._source = source
        self._blobs: OrderedDict[str, _OpenBlob] = OrderedDict()
        self._frames: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def chunks_in(self, sha256: str) -> int | None:
        """How many chunks a blob has; None when there is no such blob.

        Raises:
            OSError: the source cannot be read now.
        """
        blob = self._blob(sha256)
        return None if blob is None else chunk_count(blob.size_bytes)

    def frame(self, sha256: str, index: int) -> bytes:
        """The frame of one chunk.

        Raises:
            OSError: the source cannot be read now, or the blob is gone or cut short.
        """
        frame = self._frames.pop((sha256, index), None)
        if frame is None:
            frame = self._make(sha256, index)
        self._frames[sha256, index] = frame
        if len(self._frames) > FRAMES_KEPT_MAX:
            self._frames.popitem(last=False)
        return frame

    def forget(self, sha256: str, indexes: Iterable[int]) -> None:
        """Read these chunks of a blob anew the next time, from whatever file is there then."""
        if sha256 in self._blobs:
            self._close(sha256)
        for index in indexes:
            self._frames.pop((sha256, index), None)

    def close(self) -> None:
        """Close all streams."""
        for blob in self._blobs.values():
            blob.stream.close()
        self._blobs.clear()
        self._frames.clear()

    def _make(self, sha256: str, index: int) -> bytes:
        blob = self._blob(sha256)
        if blob is None:
            raise FileNotFoundError(f"blob {sha256} is gone")
        wanted_bytes = chunk_size(blob.size_bytes, index)
        try:
            blob.stream.seek(index * CHUNK_SIZE_BYTES)
            raw = blob.stream.read(wanted_bytes)
        except OSError:
            self._close(sha256)
            raise
        if len(raw) != wanted_bytes:
            self._close(sha256)
            raise OSError(f"blob {sha256} is cut short at chunk {index}")
        return blob.frame(Chunk(sha256, index, raw))

    def _blob(self, sha256: str) -> _OpenBlob | None:
        if sha256 not in self._blobs:
            stream = self._source.open_blob(sha256)
            if stream is None:
                return None
            self._blobs[sha256] = _OpenBlob(stream, stream.seek(0, os.SEEK_END))
            if len(self._blobs) > OPEN_BLOBS_MAX:
                self._close(next(iter(self._blobs)))
        self._blobs.move_to_end(sha256)
        return self._blobs[sha256]

    def _close(self, sha256: str) -> None:
        self._blobs.pop(sha256).stream.close()
