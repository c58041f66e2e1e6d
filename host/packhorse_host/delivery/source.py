"""Where chunks come from, with the last ones kept ready: a fleet asks for the same ones at the same time."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import BinaryIO, Protocol

from packhorse_agent.contract.chunks import Chunk, chunk_count, chunk_size, encode_chunk
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES

OPEN_BLOBS_MAX = 16
FRAMES_KEPT_MAX = 64
"""4 MiB."""


class BlobSource(Protocol):
    """What the server can hand out."""

    def open_blob(self, sha256: str) -> BinaryIO | None:
        """The blob as a seekable stream, which the caller closes; None when there is none.

        Raises:
            OSError: it cannot be read now.
        """


class FrameReader:
    """Reads chunks of a source's blobs and frames them."""

    def __init__(self, source: BlobSource) -> None:
        self._source = source
        self._blobs: OrderedDict[str, tuple[BinaryIO, int]] = OrderedDict()
        self._frames: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def chunks_in(self, sha256: str) -> int | None:
        """How many chunks a blob has; None when there is no such blob.

        Raises:
            OSError: the source cannot be read now.
        """
        blob = self._blob(sha256)
        return None if blob is None else chunk_count(blob[1])

    def frame(self, sha256: str, index: int) -> bytes:
        """The frame of one chunk.

        Raises:
            OSError: the source cannot be read now, or the blob is gone or cut short.
        """
        kept = self._frames.pop((sha256, index), None)
        frame = kept if kept is not None else encode_chunk(Chunk(sha256, index, self._read(sha256, index)))
        self._frames[sha256, index] = frame
        if len(self._frames) > FRAMES_KEPT_MAX:
            self._frames.popitem(last=False)
        return frame

    def close(self) -> None:
        """Close all streams."""
        for stream, _ in self._blobs.values():
            stream.close()
        self._blobs.clear()
        self._frames.clear()

    def _read(self, sha256: str, index: int) -> bytes:
        blob = self._blob(sha256)
        if blob is None:
            raise FileNotFoundError(f"blob {sha256} is gone")
        stream, size_bytes = blob
        wanted_bytes = chunk_size(size_bytes, index)
        try:
            stream.seek(index * CHUNK_SIZE_BYTES)
            raw = stream.read(wanted_bytes)
        except OSError:
            self._close(sha256)
            raise
        if len(raw) != wanted_bytes:
            self._close(sha256)
            raise OSError(f"blob {sha256} is cut short at chunk {index}")
        return raw

    def _blob(self, sha256: str) -> tuple[BinaryIO, int] | None:
        if sha256 not in self._blobs:
            stream = self._source.open_blob(sha256)
            if stream is None:
                return None
            self._blobs[sha256] = stream, stream.seek(0, os.SEEK_END)
            if len(self._blobs) > OPEN_BLOBS_MAX:
                self._close(next(iter(self._blobs)))
        self._blobs.move_to_end(sha256)
        return self._blobs[sha256]

    def _close(self, sha256: str) -> None:
        stream, _ = self._blobs.pop(sha256)
        stream.close()
