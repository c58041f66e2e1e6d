"""From verified bundles to signed targets: what is new, what it needs, and what stands in its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from packhorse_agent.contract.base import sha256_hex, version_key
from packhorse_agent.contract.rollout import BundleRef
from packhorse_agent.trust.bundle_folder import MEASUREMENT_FILE, VerifiedBundle
from packhorse_agent.trust.release import BundlePath, minimum_version, model_role
from packhorse_host.repository.content import ContentFolder
from packhorse_host.repository.errors import BelowMinimumError, ReleaseTakenError
from packhorse_host.repository.metadata import State, describe_target
from packhorse_host.repository.transaction import Transaction


@dataclass(frozen=True)
class Publication:
    """A verified bundle and where it goes."""

    bundle: VerifiedBundle
    path: BundlePath

    @property
    def role(self) -> str:
        """The role that signs it."""
        return model_role(self.path.model)

    @property
    def ref(self) -> BundleRef:
        """What a rollout names it by."""
        size_bytes = len(self.bundle.manifest_bytes)
        return BundleRef(target=str(self.path), sha256=self.bundle.sha256, size_bytes=size_bytes)

    def targets(self) -> dict[str, bytes]:
        """TUF path → content of what is signed."""
        found = {str(self.path): self.bundle.manifest_bytes}
        if self.bundle.measurement_bytes is not None:
            found[f"{self.path.folder}/{MEASUREMENT_FILE}"] = self.bundle.measurement_bytes
        return found


def make_publications(bundles: Iterable[VerifiedBundle]) -> list[Publication]:
    """Name each bundle by its manifest.

    Raises:
        ReleaseTakenError: two different bundles have one name.
    """
    found: dict[BundlePath, Publication] = {}
    for bundle in bundles:
        manifest = bundle.manifest
        path = BundlePath(manifest.model, manifest.version, manifest.profile, manifest.recipe.name)
        known = found.setdefault(path, Publication(bundle, path))
        if known.bundle.sha256 != bundle.sha256:
            text = f"{known.bundle.folder} and {bundle.folder} differ and are both {_name(path)}"
            raise ReleaseTakenError(text)
    return list(found.values())


def unpublished(publications: Sequence[Publication], state: State) -> list[Publication]:
    """Those that the repository does not hold yet as they are.

    Raises:
        ReleaseTakenError: another bundle was published under the same name.
        BelowMinimumError: the release is older than its model's minimum.
    """
    return [publication for publication in publications if _is_new(publication, state)]


def add_content(publication: Publication, content: ContentFolder, added: list[str]) -> None:
    """Copy all that devices pull; digests of what was not there before are appended to `added`."""
    for artifact in publication.bundle.artifacts:
        if content.add_file(artifact.path, artifact.artifact.sha256):
            added.append(artifact.artifact.sha256)
        for level in artifact.index_levels:
            _add(content, level, added)
    for data in publication.targets().values():
        _add(content, data, added)


def is_whole(publication: Publication, content: ContentFolder) -> bool:
    """Whether all that devices pull is here as it was published."""
    return all(content.is_whole(sha256) for sha256 in _digests(publication))


def mend_content(publication: Publication, content: ContentFolder) -> None:
    """Put back what is missing, or was damaged on the disk."""
    for sha256 in _digests(publication):
        if not content.is_whole(sha256):
            content.remove(sha256)
    add_content(publication, content, [])


def sign_publication(publication: Publication, transaction: Transaction) -> None:
    """Make it a target of its model's role, which is delegated when it is new."""
    if not transaction.state.delegated_keyids(publication.role):
        model = publication.path.model
        folder = f"bundles/{model}/*/*/*"
        transaction.delegate(publication.role, [f"{folder}/manifest.json", f"{folder}/{MEASUREMENT_FILE}"])
    targets = transaction.role(publication.role).targets
    for path, content in publication.targets().items():
        targets[path] = describe_target(path, content)


def _digests(publication: Publication) -> Iterator[str]:
    for artifact in publication.bundle.artifacts:
        yield artifact.artifact.sha256
        yield from artifact.artifact.chunk_index
    yield from map(sha256_hex, publication.targets().values())


def _add(content: ContentFolder, data: bytes, added: list[str]) -> None:
    if content.add_bytes(data):
        added.append(sha256_hex(data))


def _is_new(publication: Publication, state: State) -> bool:
    role = state.roles.get(publication.role)
    known = role.targets if role else {}
    published = known.get(str(publication.path))
    if published is not None and published.hashes["sha256"] != publication.bundle.sha256:
        raise ReleaseTakenError(
            f"another bundle was published as {_name(publication.path)} before; a release never changes: "
            "pack it under a new version"
        )
    minimum = minimum_version(role)
    if version_key(publication.path.version) < version_key(minimum):
        raise BelowMinimumError(f"{_name(publication.path)} is older than the signed minimum {minimum}")
    return any(
        path not in known or known[path].hashes["sha256"] != sha256_hex(content)
        for path, content in publication.targets().items()
    )


def _name(path: BundlePath) -> str:
    return f"{path.model} {path.version} for {path.profile}, {path.recipe}"
