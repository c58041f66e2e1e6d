"""One run of python-tuf's client over bytes in memory, in a scratch folder that is thrown away.

The updater keeps its local files in the scratch folder: what was accepted before is laid there first, and
what it writes there afterwards has passed its checks. Roles and targets are asked for by signed digest.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.limits import METADATA_MAX_BYTES, TRUST_SET_MAX_ENTRIES
from packhorse_agent.errors import UntrustedError
from packhorse_agent.store.errors import storage_error
from packhorse_agent.trust.errors import (
    IncompleteMetadataError,
    MalformedMetadataError,
    OversizedMetadataError,
)
from packhorse_agent.trust.ports import BlobReader, NeededBlob
from packhorse_agent.trust.signed import signed_blob
from packhorse_agent.trust.translate import translate

ROOT_FILE = "root.json"
TIMESTAMP_FILE = "timestamp.json"
SNAPSHOT_FILE = "snapshot.json"
TARGETS_FILE = "targets.json"
SCRATCH_PREFIX = "scratch-"

_BASE = "memory:///"
_CONFIG = UpdaterConfig(
    max_root_rotations=TRUST_SET_MAX_ENTRIES,
    root_max_length=METADATA_MAX_BYTES,
    snapshot_max_length=METADATA_MAX_BYTES,
    targets_max_length=METADATA_MAX_BYTES,
)

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)
T = TypeVar("T")


class BlobMissingError(Exception):
    """Metadata that must be pulled by hash before the run can go on."""

    def __init__(self, blob: NeededBlob, name: str) -> None:
        super().__init__(name)
        self.blob = blob
        self.name = name


class _ClockedUpdater(Updater):
    """An updater at a given time. python-tuf reads the system clock when it makes its trusted set and
    compares with that reading ever after, first of all in `refresh`: replacing the reading is enough.
    """

    def __init__(self, scratch: Path, fetcher: FetcherInterface, root: bytes, now: datetime) -> None:
        super().__init__(str(scratch), _BASE, fetcher=fetcher, config=_CONFIG, bootstrap=root)
        self._trusted_set.reference_time = now


class _MemoryFetcher(FetcherInterface):
    """Answers from offered files by name, then by the digest that signed metadata states."""

    def __init__(
        self, scratch: Path, known: Mapping[str, bytes], offered: Mapping[str, bytes], blobs: BlobReader
    ) -> None:
        self._scratch = scratch
        self._known = known
        self._offered = offered
        self._blobs = blobs
        self.asked = ROOT_FILE
        self.problem: UntrustedError | BlobMissingError | None = None

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = unquote(url.removeprefix(_BASE))
        self.asked = name
        data = self._offered.get(name)
        if data is None:
            data = self._pull(name)
        return iter((data,))

    def _pull(self, name: str) -> bytes:
        if name.endswith(f".{ROOT_FILE}"):
            raise DownloadHTTPError(f"no {name}", 404)
        try:
            blob = self._signed_blob(name)
        except UntrustedError as error:
            self.problem = error
            raise
        # The client passes over a local file that does not verify: give it again, so that it says why.
        known = self._known.get(name.partition(".")[2], b"")
        data = known if sha256_hex(known) == blob.sha256 else self._blobs(blob.sha256)
        if data is None:
            self.problem = BlobMissingError(blob, name)
            raise self.problem
        return data

    def _signed_blob(self, name: str) -> NeededBlob:
        if name == TIMESTAMP_FILE:
            raise IncompleteMetadataError("the trust set holds no timestamp.json")
        _, _, file = name.partition(".")
        if file == SNAPSHOT_FILE:
            return signed_blob(file, read_signed(Timestamp, self._scratch / TIMESTAMP_FILE).snapshot_meta)
        return signed_blob(file, read_signed(Snapshot, self._scratch / SNAPSHOT_FILE).meta[file])


class Session:
    """A context: verifies `offered` against `known` (what was accepted before, by unversioned name).

    Raises, from every method:
        UntrustedError subclasses: see `errors`.
        BlobMissingError: something must be pulled first.
        StorageFullError, StorageFaultError: the scratch folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        known: Mapping[str, bytes],
        offered: Mapping[str, bytes],
        blobs: BlobReader,
        now: datetime,
    ) -> None:
        self._scratch = _make_scratch(folder)
        self._fetcher = _MemoryFetcher(self._scratch, known, offered, blobs)
        try:
            self._updater = self._run(lambda: self._lay_out(known, now))
        except BaseException:
            self._remove()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def refresh(self) -> None:
        """Verify root, timestamp, snapshot and targets."""
        self._run(self._updater.refresh)

    def target(self, path: str) -> TargetFile | None:
        """What the role that answers for `path` signed for it; None when it is not a target."""
        return self._run(lambda: self._updater.get_targetinfo(path))

    def signed(self, kind: type[S], name: str) -> S | None:
        """The verified content of a metadata file that this run has used; None when it used none."""
        path = self._scratch / name
        return self._run(lambda: read_signed(kind, path)) if path.exists() else None

    def raw(self, name: str) -> bytes | None:
        """The bytes of a metadata file that this run has used."""
        path = self._scratch / name
        return path.read_bytes() if path.exists() else None

    def _lay_out(self, known: Mapping[str, bytes], now: datetime) -> Updater:
        for name, data in known.items():
            if name != ROOT_FILE and "/" not in name:
                (self._scratch / name).write_bytes(data)
        return _ClockedUpdater(self._scratch, self._fetcher, known[ROOT_FILE], now)

    def _run(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except (RepositoryError, DownloadError) as error:
            problem = self._fetcher.problem
            if problem is not None:
                raise problem from error
            raise translate(error, self._fetcher.asked) from error
        except OSError as error:
            raise storage_error(error, str(self._scratch)) from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            # python-tuf states no errors for content that is well formed and still makes no sense
            raise MalformedMetadataError(f"{self._fetcher.asked} makes no sense: {error!r}") from error

    def _remove(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)


def _make_scratch(folder: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=folder))
    except OSError as error:
        raise storage_error(error, str(folder)) from error


def read_signed(kind: type[S], path: Path) -> S:
    """The signed part of a metadata file that was verified before."""
    return Metadata[S].from_bytes(path.read_bytes()).signed


def check_length(name: str, data: bytes) -> None:
    """Refuse what is larger than any metadata may be.

    Raises:
        OversizedMetadataError: more than `METADATA_MAX_BYTES`.
    """
    if len(data) > METADATA_MAX_BYTES:
        raise OversizedMetadataError(f"{name} has {len(data)} bytes, at most {METADATA_MAX_BYTES} may be")
