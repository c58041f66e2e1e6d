"""Bundle folders: a manifest, the artifacts that it names and, beside them, a measurement.

A set of folders is written whole beside the place where they go and then renamed, so that a reader sees
either all of a bundle or none of it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from packhorse_agent.contract.base import canonical_json, sha256_hex
from packhorse_agent.contract.chunks import build_index
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.contract.manifest import (
    MANIFEST_FILE,
    Artifact,
    ArtifactRole,
    Manifest,
    encode_manifest,
)
from packhorse_agent.contract.measurement import Measurement
from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.store.durable import write_durable
from packhorse_agent.store.errors import storage_error
from packhorse_agent.store.files import OS_FILES
from packhorse_agent.trust.bundle_folder import MEASUREMENT_FILE
from packhorse_host.bundle.errors import OtherBundleError


@dataclass(frozen=True)
class BundleContent:
    """All of a bundle, in memory."""

    manifest: Manifest
    files: Mapping[str, bytes]
    """Artifacts by file name."""
    measurement: Measurement

    @property
    def folder_name(self) -> str:
        """`MODEL-VERSION-PROFILE-RECIPE`."""
        about = self.manifest
        return f"{about.model}-{about.version}-{about.profile}-{about.recipe.name}"


def describe_artifact(role: ArtifactRole, file: str, data: bytes) -> Artifact:
    """The manifest's entry for one file, with the digests of its chunk index."""
    starts = range(0, len(data), CHUNK_SIZE_BYTES)
    digests = (hashlib.sha256(data[start : start + CHUNK_SIZE_BYTES]).digest() for start in starts)
    return Artifact(
        role=role,
        file=file,
        sha256=sha256_hex(data),
        size_bytes=len(data),
        chunk_index=tuple(sha256_hex(level) for level in build_index(digests)),
    )


class FolderWriter:
    """Writes bundle folders into one place: `stage` each, then `publish` all; else nothing remains.

    A context manager; leaving it removes what was staged and not published.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._made_output = False
        self._scratch: Path | None = None
        self._staged: list[tuple[Path, Path]] = []

    def __enter__(self) -> FolderWriter:
        """Make the output folder.

        Raises:
            EnvironmentFaultError: it cannot be made or written to.
        """
        self._made_output = not self._output.exists()
        OS_FILES.make_folder(self._output)
        try:
            self._scratch = Path(tempfile.mkdtemp(prefix=".packing-", dir=self._output))
        except OSError as error:
            raise storage_error(error, str(self._output)) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        if error is not None and self._made_output:
            _remove_if_empty(self._output)

    def stage(self, content: BundleContent) -> Path:
        """Write a bundle beside its place; returns the folder that `publish` will give it.

        Raises:
            OtherBundleError: another bundle is there already.
            EnvironmentFaultError: no space, or the folder is not writable.
        """
        assert self._scratch is not None, "use it as a context manager"  # noqa: S101
        final = self._output / content.folder_name
        if final.exists():
            _check_same(final, content)
            return final
        staged = self._scratch / content.folder_name
        OS_FILES.make_folder(staged)
        for name, data in _all_files(content).items():
            write_durable(staged / name, data)
        self._staged.append((staged, final))
        return final

    def publish(self) -> None:
        """Put all staged folders in place.

        Raises:
            EnvironmentFaultError: the output folder is not writable any more.
        """
        published: list[Path] = []
        try:
            for staged, final in self._staged:
                OS_FILES.rename(staged, final)
                published.append(final)
            OS_FILES.sync_folder(self._output)
        except EnvironmentFaultError:
            for final in published:
                shutil.rmtree(final, ignore_errors=True)
            raise
        self._staged.clear()


def _all_files(content: BundleContent) -> dict[str, bytes]:
    return {
        **content.files,
        MEASUREMENT_FILE: canonical_json(content.measurement),
        MANIFEST_FILE: encode_manifest(content.manifest),
    }


def _check_same(final: Path, content: BundleContent) -> None:
    """The same bundle may be packed again; its measurement stays the one that is there."""
    expected = {**content.files, MANIFEST_FILE: encode_manifest(content.manifest)}
    different = sorted(name for name, data in expected.items() if _bytes_of(final / name) != data)
    if different:
        raise OtherBundleError(
            f"{final}: another bundle is there already ({', '.join(different)} differ); "
            "give the model a new --version, or remove the folder"
        )


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
