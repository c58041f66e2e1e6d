"""Random walks of the blob store against a trivial model: a dictionary and a few sets."""

from __future__ import annotations

from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from packhorse_agent.errors import ConflictError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.errors import DigestMismatchError, StorageFullError
from packhorse_agent.store.partial import PartialBlob
from tests.fakes.blobs import random_blob
from tests.fakes.memory_files import Killed, MemoryFiles, PowerLoss

ROOT = Path("/state")
BLOBS = [random_blob(count, seed=count) for count in (2, 3, 4)]
CAPACITY_BYTES = 7 * 64 * 1024
blobs = st.sampled_from(BLOBS)


class StoreWalk(RuleBasedStateMachine):
    """The model: which blobs are whole, which chunks of the others were reported or synced."""

    @initialize()
    def begin(self) -> None:
        self.files = MemoryFiles(ROOT, CAPACITY_BYTES)
        self.whole: set[str] = set()
        self.reported: dict[str, set[int]] = {}
        self.synced: dict[str, set[int]] = {}
        self.start()

    def start(self) -> None:
        self.store = BlobStore(ROOT, self.files, headroom_bytes=0)
        self.open: dict[str, PartialBlob] = {}

    @rule(at=st.integers(0, 2))
    def open_partial(self, at: int) -> None:
        blob = BLOBS[at]
        try:
            partial = self.store.open_partial(blob.sha256, len(blob.data), blob.digests)
        except ConflictError:
            assert blob.sha256 in self.whole | set(self.open)
            return
        except StorageFullError:
            assert not self.reported.pop(blob.sha256, None)
            self._forget(blob.sha256)
            return
        assert blob.sha256 not in self.whole | set(self.open)
        partial.settle(1 << 30)
        self.open[blob.sha256] = partial
        present = set(range(blob.count)) - set(partial.missing())
        assert present >= self.reported.get(blob.sha256, set())
        self.reported[blob.sha256] = present
        self.synced.setdefault(blob.sha256, set())

    @rule(at=st.integers(0, 2), index=st.integers(0, 4), flip=st.booleans())
    def write(self, at: int, index: int, flip: bool) -> None:
        blob = BLOBS[at]
        partial = self.open.get(blob.sha256)
        if partial is None:
            return
        raw = blob.chunk(index)
        if flip:
            raw = raw[:-1] + bytes([raw[-1] ^ 1]) if raw else b"?"
        had = index in self.reported[blob.sha256]
        try:
            fresh = partial.write_chunk(index, raw)
        except DigestMismatchError:
            assert flip or index >= blob.count
            return
        assert fresh is not had
        self.reported[blob.sha256].add(index)

    @rule(at=st.integers(0, 2))
    def sync(self, at: int) -> None:
        blob = BLOBS[at]
        if blob.sha256 in self.open:
            self.open[blob.sha256].sync()
            self.synced[blob.sha256] = set(self.reported[blob.sha256])

    @rule(at=st.integers(0, 2))
    def complete(self, at: int) -> None:
        blob = BLOBS[at]
        if blob.sha256 not in self.open:
            return
        try:
            self.open[blob.sha256].complete()
        except ConflictError:
            assert len(self.reported[blob.sha256]) < blob.count
            return
        except StorageFullError:
            return
        assert len(self.reported[blob.sha256]) == blob.count
        self._forget(blob.sha256)
        self.whole.add(blob.sha256)

    @rule(at=st.integers(0, 2))
    def discard(self, at: int) -> None:
        if partial := self.open.get(BLOBS[at].sha256):
            partial.discard()
            self._forget(BLOBS[at].sha256)

    @rule(at=st.integers(0, 2))
    def close(self, at: int) -> None:
        if partial := self.open.pop(BLOBS[at].sha256, None):
            partial.close()
            self.synced[BLOBS[at].sha256] = set(self.reported[BLOBS[at].sha256])

    @rule(budget_chunks=st.integers(0, 8), keep=st.sets(st.integers(0, 2)))
    def collect(self, budget_chunks: int, keep: set[int]) -> None:
        kept = {BLOBS[at].sha256 for at in keep}
        budget_bytes = budget_chunks * 64 * 1024
        removed = set(self.store.collect(kept, budget_bytes))
        assert not removed & (kept | set(self.open))
        for sha256 in removed:
            self.whole.discard(sha256)
            self._forget(sha256)
        removable = (self.whole | set(self.reported)) - kept - set(self.open)
        assert self.store.size_bytes() <= budget_bytes or not removable

    @rule(steps=st.integers(0, 12), at=st.integers(0, 2))
    def killed_while_writing(self, steps: int, at: int) -> None:
        self.files.kill_at = self.files.calls + steps
        blob = BLOBS[at]
        try:
            for index in range(blob.count):
                self.write(at, index, False)
            self.complete(at)
        except Killed:
            pass
        self.files.restart()
        self.start()
        if self.store.has(blob.sha256) and blob.sha256 not in self.whole:
            assert len(self.reported[blob.sha256]) == blob.count
            self.whole.add(blob.sha256)
            self._forget(blob.sha256)

    @rule(names=st.booleans(), data=st.booleans(), empty=st.booleans())
    def power_lost(self, names: bool, data: bool, empty: bool) -> None:
        self.files.lose_power(PowerLoss(names, lambda _: data, empty))
        self.start()
        self.reported = {sha256: set(chunks) for sha256, chunks in self.synced.items()}

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def whole_blobs_are_whole(self) -> None:
        for blob in BLOBS:
            here = self.store.has(blob.sha256)
            assert here is (blob.sha256 in self.whole)
            if here:
                assert self.files.content(ROOT / "blobs" / blob.sha256) == blob.data

    def _forget(self, sha256: str) -> None:
        self.open.pop(sha256, None)
        self.reported.pop(sha256, None)
        self.synced.pop(sha256, None)


TestStoreWalk = StoreWalk.TestCase
TestStoreWalk.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
