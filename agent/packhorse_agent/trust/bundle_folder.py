"""A bundle as a folder: whether every file is what the manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.chunks import build_index
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES, MANIFEST_MAX_BYTES
from packhorse_agent.contract.manifest import MANIFEST_FILE, Artifact, Manifest
from packhorse_agent.contract.measurement import Measurement
from packhorse_agent.store.errors import storage_error
from packhorse_agent.trust.errors import NotABundleError, TamperedBundleError, TruncatedBundleError

MEASUREMENT_FILE = "measurement.json"


@dataclass(frozen=True)
class VerifiedArtifact:
    """An artifact whose file has the size, digest and chunk index that the manifest names."""

    artifact: Artifact
    path: Path
    index_levels: tuple[bytes, ...]
    """The index itself, lowest level first; SHA-256 of each is in `artifact.chunk_index`."""


@dataclass(frozen=True)
class VerifiedBundle:
    """A folder in which every file was read and compared."""

    folder: Path
    manifest: Manifest
    manifest_bytes: bytes
    artifacts: tuple[VerifiedArtifact, ...]
    measurement_bytes: bytes | None
    """`measurement.json`, when there is one; it names this manifest."""

    @property
    def sha256(self) -> str:
        """The bundle's digest: that of its manifest."""
        return sha256_hex(self.manifest_bytes)


def verify_bundle_folder(folder: Path, expected_sha256: str | None = None) -> VerifiedBundle:
    """Read a bundle folder whole and compare it with its manifest (and that with `expected_sha256`).

    Files that the manifest does not name are no part of the bundle and are left alone.

    Raises:
        NotABundleError: no folder, no manifest, or one that cannot be read.
        TruncatedBundleError: a file is missing or shorter than the manifest says.
        TamperedBundleError: a file has another content, or is no plain file.
        StorageFaultError: the disk does not give a file.
    """
    manifest_bytes = _read_small(folder / MANIFEST_FILE)
    if manifest_bytes is None:
        raise NotABundleError(f"{folder} is no bundle: it holds no {MANIFEST_FILE}")
    if expected_sha256 is not None and sha256_hex(manifest_bytes) != expected_sha256:
        raise TamperedBundleError(f"{folder}: the manifest is not the one with digest {expected_sha256}")
    try:
        manifest = Manifest.model_validate_json(manifest_bytes)
    except ValidationError as error:
        if manifest_bytes and "EOF while parsing" in _first(error):
            raise TruncatedBundleError(f"{folder / MANIFEST_FILE} ends in the middle") from error
        raise NotABundleError(f"{folder / MANIFEST_FILE} is no manifest: {_first(error)}") from error
    artifacts = tuple(_verify_artifact(folder, artifact) for artifact in manifest.artifacts)
    return VerifiedBundle(folder, manifest, manifest_bytes, artifacts, _measurement(folder, manifest_bytes))


def _verify_artifact(folder: Path, artifact: Artifact) -> VerifiedArtifact:
    path = folder / artifact.file
    _check_size(path, artifact)
    whole = hashlib.sha256()
    digests: list[bytes] = []
    for chunk in _chunks(path):
        whole.update(chunk)
        digests.append(hashlib.sha256(chunk).digest())
    levels = build_index(digests)
    if whole.hexdigest() != artifact.sha256:
        raise TamperedBundleError(f"{path} was changed: its SHA-256 is not the manifest's")
    if tuple(sha256_hex(level) for level in levels) != artifact.chunk_index:
        raise TamperedBundleError(f"{path}: the manifest's chunk index is not that of the file")
    return VerifiedArtifact(artifact, path, levels)


def _check_size(path: Path, artifact: Artifact) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise TamperedBundleError(f"{path} is no plain file")
    if not path.exists():
        raise TruncatedBundleError(f"{path} is missing")
    found = path.stat().st_size
    if found < artifact.size_bytes:
        raise TruncatedBundleError(f"{path} has {found} bytes, the manifest says {artifact.size_bytes}")
    if found > artifact.size_bytes:
        raise TamperedBundleError(f"{path} has {found} bytes, the manifest says {artifact.size_bytes}")


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_SIZE_BYTES):
                yield chunk
    except OSError as error:
        raise storage_error(error, str(path)) from error


def _measurement(folder: Path, manifest_bytes: bytes) -> bytes | None:
    path = folder / MEASUREMENT_FILE
    content = _read_small(path)
    if content is None:
        return None
    try:
        measurement = Measurement.model_validate_json(content)
    except ValidationError as error:
        raise TamperedBundleError(f"{path} is no measurement: {_first(error)}") from error
    if measurement.manifest_sha256 != sha256_hex(manifest_bytes):
        raise TamperedBundleError(f"{path} was measured on another bundle")
    return content


def _read_small(path: Path) -> bytes | None:
    if path.is_symlink() or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            content = file.read(MANIFEST_MAX_BYTES + 1)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    if len(content) > MANIFEST_MAX_BYTES:
        raise NotABundleError(f"{path} has more than {MANIFEST_MAX_BYTES} bytes")
    return content


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'document'}: {first['msg']}"
