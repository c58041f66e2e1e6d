"""Who gets the next chunk. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

ChunkKey = tuple[str, int]
"""SHA-256 of the blob, number of the chunk."""


class FairQueue:
    """A queue of chunks for each device; devices take turns, and no chunk stands in a queue twice."""

    def __init__(self, per_device_max: int) -> None:
        self._per_device_max = per_device_max
        self._queues: OrderedDict[str, OrderedDict[ChunkKey, None]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def offer(self, device_id: str, chunks: Iterable[ChunkKey]) -> bool:
        """Queue what is not queued yet; False, and nothing is, when that exceeds the device's share."""
        queue = self._queues.get(device_id, OrderedDict())
        fresh = [chunk for chunk in dict.fromkeys(chunks) if chunk not in queue]
        if len(queue) + len(fresh) > self._per_device_max:
            return False
        if fresh:
            queue.update((chunk, None) for chunk in fresh)
            self._queues.setdefault(device_id, queue)
            self._size += len(fresh)
        return True

    def take(self) -> tuple[str, ChunkKey] | None:
        """The oldest chunk of the device whose turn it is; None when nothing is queued."""
        if not self._queues:
            return None
        device_id, queue = self._queues.popitem(last=False)
        chunk, _ = queue.popitem(last=False)
        self._size -= 1
        if queue:
            self._queues[device_id] = queue
        return device_id, chunk

    def drop(self, device_id: str, blob_sha256: str) -> None:
        """Forget what is queued of one blob for one device."""
        queue = self._queues.get(device_id)
        if queue is None:
            return
        for chunk in [chunk for chunk in queue if chunk[0] == blob_sha256]:
            del queue[chunk]
            self._size -= 1
        if not queue:
            del self._queues[device_id]
