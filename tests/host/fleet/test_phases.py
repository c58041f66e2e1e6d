"""Phases as people write them, and as they should not."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_host.errors import ConfigError
from packhorse_host.fleet.model import PhaseSpec
from packhorse_host.fleet.phases import parse_duration_s, parse_phase, parse_share_ppm


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("canary:tag=canary", PhaseSpec(name="canary", tags=("canary",))),
        ("two:tag=a,tag=b,soak=10m", PhaseSpec(name="two", tags=("a", "b"), soak_s=600)),
        ("some:share=12.5%,deadline=2d", PhaseSpec(name="some", share_ppm=125_000, deadline_s=172_800)),
        ("all:share=100%,soak=0s", PhaseSpec(name="all", share_ppm=1_000_000, soak_s=0)),
        ("one:share=0.0001%", PhaseSpec(name="one", share_ppm=1)),
    ],
)
def test_a_phase_is_read(text: str, phase: PhaseSpec) -> None:
    assert parse_phase(text) == phase


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "selects nobody"),
        ("canary", "selects nobody"),
        ("canary:", "selects nobody"),
        ("canary:soak=10m", "selects nobody"),
        (":share=5%", "String should"),
        ("Canary:share=5%", "String should"),
        ("a/b:share=5%", "String should"),
        ("x:tag=UPPER", "String should"),
        ("x:tag=", "String should"),
        ("x:share=101%", "no share"),
        ("x:share=5", "no share"),
        ("x:share=-5%", "no share"),
        ("x:share=%", "no share"),
        ("x:share=1e2%", "no share"),
        ("x:share=5%,soak=10", "no duration"),
        ("x:share=5%,soak=-1s", "no duration"),
        ("x:share=5%,soak=10 m", "no duration"),
        ("x:share=5%,soak=8d", "less than or equal"),
        ("x:share=5%,deadline=0s", "greater than"),
        ("x:share=5%,shaer=6%", "unknown 'shaer'"),
        ("x:share=5%,share=6%", "twice"),
        ("x:share=5%,soak=1s,soak=2s", "twice"),
    ],
)
def test_what_is_no_phase_is_refused_with_what_was_expected(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_phase(text)


@given(st.text(max_size=40))
def test_any_other_text_is_a_phase_or_a_wrong_setting(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse_phase(text).name == text.partition(":")[0]


@given(st.integers(0, 1_000_000))
def test_shares_are_exact(ppm: int) -> None:
    assert parse_share_ppm(f"{ppm / 10_000:.4f}%") == ppm


@given(
    st.integers(0, 10_000), st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("d", 86400)])
)
def test_durations_are_seconds(number: int, unit: tuple[str, float]) -> None:
    assert parse_duration_s(f"{number}{unit[0]}") == pytest.approx(number * unit[1])
