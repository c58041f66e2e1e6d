"""Phases as people write them: `NAME:tag=canary,soak=10m` or `NAME:share=25%,soak=1h,deadline=2d`."""

from __future__ import annotations

import re

from pydantic import ValidationError

from packhorse_agent.contract.rollout import SHARE_ALL_PPM
from packhorse_host.errors import ConfigError
from packhorse_host.fleet.model import PhaseSpec

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SHARE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)%")


def parse_phase(text: str) -> PhaseSpec:
    """Read one phase.

    Raises:
        ConfigError: not a phase; the text says what was expected.
    """
    name, _, rest = text.partition(":")
    fields: dict[str, object] = {"name": name}
    tags: list[str] = []
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if f"{key}_ppm" in fields or f"{key}_s" in fields:
            raise ConfigError(f"phase {text!r} says {key} twice")
        if key == "tag":
            tags.append(value)
        elif key == "share":
            fields["share_ppm"] = parse_share_ppm(value)
        elif key in ("soak", "deadline"):
            fields[f"{key}_s"] = parse_duration_s(value)
        else:
            raise ConfigError(f"phase {text!r}: unknown {key!r}; known are tag, share, soak and deadline")
    if not tags and "share_ppm" not in fields:
        raise ConfigError(f"phase {text!r} selects nobody: say tag=NAME or share=PERCENT%")
    try:
        return PhaseSpec.model_validate({**fields, "tags": tuple(tags)})
    except ValidationError as error:
        raise ConfigError(f"phase {text!r}: {error.errors()[0]['msg']}") from error


def parse_duration_s(text: str) -> float:
    """Read `250ms`, `30s`, `10m`, `2h` or `1d` into seconds.

    Raises:
        ConfigError: anything else.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no duration; write 30s, 10m, 2h or 1d")
    return float(found[1]) * _UNITS_S[found[2]]


def parse_share_ppm(text: str) -> int:
    """Read `12.5%` into parts per million.

    Raises:
        ConfigError: not a percentage, or over 100 %.
    """
    found = _SHARE.fullmatch(text)
    share_ppm = round(float(found[1]) * SHARE_ALL_PPM / 100) if found else -1
    if not 0 <= share_ppm <= SHARE_ALL_PPM:
        raise ConfigError(f"{text!r} is no share; write 1%, 12.5% or 100%")
    return share_ppm
