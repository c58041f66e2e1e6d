"""Profiles of devices: those that come along, those in files, and which one fits this machine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from packhorse_agent.contract.base import version_key
from packhorse_agent.contract.profile import Profile
from packhorse_agent.errors import ConfigError, NotFoundError
from packhorse_agent.machine import MachineFacts, device_tree_model, machine_facts
from packhorse_agent.toml_files import nearest, parse_toml, read_toml

BUILTIN_FOLDER: Final = Path(__file__).parent / "firmware_profiles"


@cache
def builtin_profiles() -> Mapping[str, Profile]:
    """The profiles that come with Packhorse, by name."""
    profiles = (load_profile(path) for path in sorted(BUILTIN_FOLDER.glob("*.toml")))
    return MappingProxyType({profile.name: profile for profile in profiles})


def load_profile(path: Path) -> Profile:
    """Read a profile from a TOML file.

    Raises:
        ConfigError: no such file, not TOML, an unknown key (with the nearest right one) or a wrong value;
            or the file is not called after the profile. All faults are listed.
    """
    try:
        profile = read_toml(path, Profile)
    except ConfigError as error:
        name = _stated_name(path)
        misnamed = f"\n  {_misnamed(path, name)}" if name and name != path.stem else ""
        raise ConfigError(f"{error}{misnamed}") from error
    if path.stem != profile.name:
        raise ConfigError(_misnamed(path, profile.name))
    return profile


def _stated_name(path: Path) -> str:
    """What a file that is not right says of its name; empty when that cannot be told."""
    try:
        name = parse_toml(path).get("name")
    except ConfigError:
        return ""
    return name if isinstance(name, str) else ""


def _misnamed(path: Path, name: str) -> str:
    return f'{path}: the file holds the profile "{name}": call it {name}.toml'


def find_profile(reference: str) -> Profile:
    """A profile by its name, or by the path of its file (anything that ends in `.toml`).

    Raises:
        NotFoundError: no built-in profile has this name.
        ConfigError: as `load_profile`.
    """
    if reference.endswith(".toml"):
        return load_profile(Path(reference))
    known = builtin_profiles()
    if reference not in known:
        hint = nearest(reference, list(known))
        raise NotFoundError(f'there is no profile "{reference}"{hint or "."} Known are: {", ".join(known)}.')
    return known[reference]


def detect_profile(root: Path = Path("/"), machine: MachineFacts | None = None) -> str | None:
    """Propose the profile of this machine: its board, else Android, else its architecture alone.

    Among boards the longest beginning of the device tree's model wins. None: no profile is compatible, or
    an architecture has no profile for machines of any kind.
    """
    facts = machine or machine_facts(root)
    fitting = [p for p in builtin_profiles().values() if check_hardware(p, facts) is None]
    model = device_tree_model(root)
    boards = [
        (len(beginning), profile.name)
        for profile in fitting
        for beginning in profile.detection.device_tree_models
        if model.startswith(beginning)
    ]
    if boards:
        return max(boards)[1]
    android = facts.operating_system == "android"
    general = (p.name for p in fitting if not p.detection.device_tree_models)
    return next((name for name in general if builtin_profiles()[name].detection.android is android), None)


def check_hardware(profile: Profile, machine: MachineFacts) -> str | None:
    """Why `machine` cannot carry `profile`; None when it can."""
    need = profile.compatible
    if machine.architecture not in need.architectures:
        return f"{profile.name} is for {_either(need.architectures)}, this machine is {machine.architecture}"
    if machine.operating_system not in need.operating_systems:
        wanted = _either(need.operating_systems)
        return f"{profile.name} is for {wanted}, this machine runs {machine.operating_system}"
    if version_key(machine.python_version) < version_key(need.minimum_python):
        return f"{profile.name} needs Python {need.minimum_python}, this is {machine.python_version}"
    return None


def _either(words: tuple[str, ...]) -> str:
    return " or ".join(words)
