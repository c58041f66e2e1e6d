"""What the blobs of published bundles must be, as the signed manifests name them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from pydantic import ValidationError

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.chunks import index_sizes
from packhorse_agent.contract.limits import MANIFEST_MAX_BYTES
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.rollout import BundleRef

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SignedBlob:
    """A blob, the digests of its index levels (lowest first), and the file that holds it on this host."""

    sha256: str
    size_bytes: int
    chunk_index: tuple[str, ...]
    file: Path


class PublishedBundle(Protocol):
    """One bundle in the repository."""

    @property
    def ref(self) -> BundleRef:
        """Its manifest, as signed."""


class Published(Protocol):
    """The repository, as far as it is asked here."""

    def version(self) -> int:
        """Changes when anything was published; cheap."""

    def releases(self) -> Sequence[PublishedBundle]:
        """All published bundles."""

    def open_blob(self, sha256: str) -> BinaryIO | None:
        """A blob as a stream; None when there is none."""


class SignedBlobs:
    """Looks blobs up in the published manifests; each manifest is read once."""

    def __init__(self, published: Published, folder: Path) -> None:
        """`folder` holds the repository's files, named by digest."""
        self._published = published
        self._folder = folder
        self._version: int | None = None
        self._read: set[str] = set()
        self._blobs: dict[str, SignedBlob] = {}

    def find(self, sha256: str) -> SignedBlob | None:
        """What is signed about a blob; None when no manifest that can be read names it.

        Raises:
            DamagedRepositoryError: the repository's metadata cannot be read.
            OSError: a manifest cannot be read now.
        """
        version = self._published.version()
        if version != self._version:
            for release in self._published.releases():
                self._take_in(release.ref)
            self._version = version
        return self._blobs.get(sha256)

    def _take_in(self, ref: BundleRef) -> None:
        if ref.sha256 in self._read:
            return
        self._blobs[ref.sha256] = self._blob(ref.sha256, ref.size_bytes, ())
        stream = self._published.open_blob(ref.sha256)
        if stream is None:
            return
        with stream:
            data = stream.read(MANIFEST_MAX_BYTES)
        if sha256_hex(data) == ref.sha256:
            self._read.add(ref.sha256)
            self._blobs.update((blob.sha256, blob) for blob in self._named(data))

    def _named(self, manifest: bytes) -> Iterator[SignedBlob]:
        try:
            artifacts = Manifest.model_validate_json(manifest).artifacts
        except ValidationError as error:  # of another version: its blobs go out unchecked
            _log.warning("a published manifest cannot be read: %s", error.errors()[0]["msg"])
            return
        for artifact in artifacts:
            names = (artifact.sha256, *artifact.chunk_index)
            sizes = (artifact.size_bytes, *index_sizes(artifact.size_bytes))
            for level, (sha256, size_bytes) in enumerate(zip(names, sizes, strict=True)):
                yield self._blob(sha256, size_bytes, names[level + 1 :])

    def _blob(self, sha256: str, size_bytes: int, chunk_index: tuple[str, ...]) -> SignedBlob:
        return SignedBlob(sha256, size_bytes, chunk_index, self._folder / sha256)
